"""Values of the chart for the tests: the two ways to watch, and everything that can be switched on."""

from __future__ import annotations

from typing import Any

DIGEST = "sha256:" + "0123456789abcdef" * 4

POOLS: dict[str, Any] = {
    "gpuPools": {
        "a100": {
            "nodeSelector": {"node.kubernetes.io/instance-type": "p4d.24xlarge"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "extraResources": {"vpc.amazonaws.com/efa": "4"},
        },
        "mi300": {"resourceName": "amd.com/gpu", "worker": {"cpu": "16", "memory": "128Gi"}, "shmSize": "32Gi"},
    }
}

NAMESPACED: dict[str, Any] = {"watch": {"namespaces": ["team-a", "team-b"]}}

EVERYTHING: dict[str, Any] = POOLS | {
    "labels": {"team": "platform"},
    "head": {
        "nodeSelector": {"pool": "cpu"},
        "tolerations": [{"key": "cpu", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 60}],
        "size": {"cpu": "1", "memory": "4Gi"},
    },
    "trainingImage": {
        "repository": "registry.example/finetune-training",
        "tag": "1.2.3",
        "digest": DIGEST,
        "pullPolicy": "Always",
        "pullSecrets": ["team-registry"],
        "rayVersion": "2.59.0",
    },
    "jobs": {
        "checkpointUri": "s3://models/runs",
        "env": [{"name": "AWS_REGION", "value": "eu-central-1"}],
        "priorityClassName": "training",
    },
    "image": {
        "repository": "registry.example/finetune-operator",
        "digest": DIGEST,
        "pullPolicy": "Always",
        "pullSecrets": ["registry"],
    },
    "replicas": 2,
    "leaderElection": {"enabled": True},
    "workers": 16,
    "resyncSeconds": 60.5,
    "log": {"format": "text", "level": "debug"},
    "serviceAccount": {"name": "tuner", "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/tuner"}},
    "admissionPolicy": {"exemptUsers": ["system:serviceaccount:velero:velero"]},
    "metrics": {
        "service": {"enabled": True, "annotations": {"prometheus.io/scrape": "true"}},
        "podMonitor": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "interval": "15s",
            "relabelings": [{"targetLabel": "cluster", "replacement": "one"}],
        },
    },
    "podDisruptionBudget": {"enabled": True, "maxUnavailable": 2},
    "networkPolicy": {
        "enabled": True,
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "apiServer": {"cidr": "10.0.0.0/16", "ports": [6443]},
    },
    "priorityClassName": "system-cluster-critical",
    "resources": {"requests": {"cpu": 1}, "limits": {"memory": "1Gi"}},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "proxy.example:3128"}],
    "extraEnvFrom": [{"secretRef": {"name": "more", "optional": True}}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
    "podAnnotations": {"note": "one"},
    "podLabels": {"cost": "platform"},
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists"}],
    "affinity": {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 1,
                    "podAffinityTerm": {
                        "topologyKey": "kubernetes.io/hostname",
                        "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "finetune-operator"}},
                    },
                }
            ]
        }
    },
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "terminationGracePeriodSeconds": 60,
}
