{{/* The operator's rights in the namespaces of jobs. Each line says what it is for; docs/install.md has the same table. */}}
{{- define "finetune-operator.rules" -}}
# It follows jobs, and writes their status. It cannot change what a job asks for.
- apiGroups: [finetune.dev]
  resources: [finetunejobs]
  verbs: [list, watch]
# All that the drivers' role grants, too: nobody can bind a role with rights that he does not have.
- apiGroups: [finetune.dev]
  resources: [finetunejobs/status]
  verbs: [get, patch]
# One RayJob for each attempt. It is never changed.
- apiGroups: [ray.io]
  resources: [rayjobs]
  verbs: [get, list, watch, create, delete]
# Why an attempt has failed. A worker whose node does not answer is deleted, so that KubeRay replaces it.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
# What a driver that left no word has left in its log. Only read when an attempt has failed.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# The run's spec, which is mounted into the pods.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
# The drivers' account in each namespace that has jobs, and its role.
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, create]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [rolebindings]
  verbs: [get, create]
{{- end }}

{{/* The rights of a job's pods. The admission policy narrows them to `run`, and to the job's own. */}}
{{- define "finetune-operator.driverRules" -}}
- apiGroups: [finetune.dev]
  resources: [finetunejobs/status]
  verbs: [get, patch]
{{- end }}
