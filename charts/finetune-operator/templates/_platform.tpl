{{/* The pools file: `Platform` in operator/finetune_operator/settings.py. */}}
{{- define "finetune-operator.platform" -}}
{{- $training := .Values.trainingImage -}}
{{- dict
  "gpuPools" .Values.gpuPools
  "head" .Values.head
  "trainingImage" (include "finetune-operator.image" (dict "image" $training "chart" .Chart))
  "imagePullPolicy" $training.pullPolicy
  "imagePullSecrets" $training.pullSecrets
  "rayVersion" $training.rayVersion
  "checkpointUri" .Values.jobs.checkpointUri
  "env" .Values.jobs.env
  "priorityClassName" .Values.jobs.priorityClassName
  | toYaml }}
{{- end }}
