{{- define "capstan.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* What every object's name begins with: the release's name, and the chart's unless that is in it. */}}
{{- define "capstan.fullname" -}}
{{- $name := include "capstan.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "capstan.operator" -}}
{{- include "capstan.fullname" . }}-operator
{{- end }}

{{- define "capstan.selector" -}}
app.kubernetes.io/name: {{ include "capstan.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "capstan.labels" -}}
{{ include "capstan.selector" . }}
app.kubernetes.io/part-of: capstan
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end }}

{{/* The reference of one of our images: include "capstan.image" (list . "operator") */}}
{{- define "capstan.image" -}}
{{- $root := index . 0 }}
{{- $name := index . 1 }}
{{- with $root.Values.image }}
{{- get . $name | default (printf "%s/%s:%s" .registry $name (.tag | default $root.Chart.AppVersion)) }}
{{- end }}
{{- end }}

{{- define "capstan.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "capstan.operator" .) }}
{{- end }}

{{/* What the operator asks of the API server, and nothing else. */}}
{{- define "capstan.rules" -}}
- apiGroups: [capstan.dev]
  resources: [trainingjobs, inferenceservices]
  verbs: [get, list, watch]
- apiGroups: [capstan.dev]
  resources: [trainingjobs/status, inferenceservices/status]
  verbs: [update]
# Children block the deletion of their owner in the foreground; OpenShift lets only those set that who may do this.
- apiGroups: [capstan.dev]
  resources: [trainingjobs/finalizers, inferenceservices/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]  # delete: spec.ttlAfterFinished of a TrainingJob; else they go with their owner
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  # delete: a server's pod whose copy of the model cannot be loaded, a job's pod whose node is dead
  verbs: [list, watch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* Where training pods report progress, if they do. */}}
{{- define "capstan.progress" -}}
{{- $wanted := toString .Values.progress.enabled }}
{{- if or (eq $wanted "true") (and (eq $wanted "auto") (not .Values.watchNamespaces)) -}}
https://{{ include "capstan.operator" . }}.{{ .Release.Namespace }}.svc:8443
{{- end }}
{{- end }}

{{/* The restricted Pod Security Standard. */}}
{{- define "capstan.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "capstan.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
