{{/* What values.schema.json cannot say: one value against another. */}}
{{- define "finetune-operator.checks" -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.leaderElection.enabled) }}
{{- fail (printf "replicas: %d operators would work on the same jobs; set leaderElection.enabled: true, or replicas: 1" (int .Values.replicas)) }}
{{- end }}
{{- range $own := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" }}
{{- if hasKey $.Values.podLabels $own }}
{{- fail (printf "podLabels: %s is set by the chart, which finds its pods by it; take it out" $own) }}
{{- end }}
{{- end }}
{{- end }}
