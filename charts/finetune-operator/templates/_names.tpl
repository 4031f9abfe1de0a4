{{/* Names, labels and images. */}}

{{- define "finetune-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters: names are made of it by suffixes, up to 63. */}}
{{- define "finetune-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Objects of the whole cluster. One release may watch all namespaces; of several that watch some, each has names of its own. */}}
{{- define "finetune-operator.clusterName" -}}
{{- if .Values.watch.namespaces }}
{{- printf "%s-%s" (include "finetune-operator.fullname" .) .Release.Namespace }}
{{- else }}
{{- include "finetune-operator.fullname" . }}
{{- end }}
{{- end }}

{{- define "finetune-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "finetune-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "finetune-operator.driverRole" -}}
{{- include "finetune-operator.fullname" . }}-driver
{{- end }}

{{/* What the operator's pods, and no others, have. */}}
{{- define "finetune-operator.selector" -}}
app.kubernetes.io/name: {{ include "finetune-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "finetune-operator.testLabels" -}}
app.kubernetes.io/name: {{ include "finetune-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end }}

{{/* Of every object. */}}
{{- define "finetune-operator.labels" -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/name" (include "finetune-operator.name" .)
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service }}
{{- toYaml (merge $own .Values.labels) }}
{{- end }}

{{/* (image, Chart) → repository[:tag][@digest] */}}
{{- define "finetune-operator.image" -}}
{{- $tag := default .chart.AppVersion .image.tag }}
{{- with .image }}
{{- if .digest }}
{{- printf "%s%s@%s" .repository (empty .tag | ternary "" (printf ":%s" .tag)) .digest }}
{{- else }}
{{- printf "%s:%s" .repository $tag }}
{{- end }}
{{- end }}
{{- end }}

{{- define "finetune-operator.pullSecrets" -}}
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
