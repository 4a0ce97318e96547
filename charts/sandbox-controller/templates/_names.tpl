{{- define "sandbox.name" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "sandbox.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end }}

{{- define "sandbox.labels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "sandbox.account" -}}
{{- default (ternary (include "sandbox.name" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end }}

{{- define "sandbox.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end -}}
{{- end }}

{{- define "sandbox.keySecret" -}}
{{- default (printf "%s-key" (include "sandbox.name" .)) .Values.secretKey.existingSecret -}}
{{- end }}

{{/* Which installation a container belongs to: two releases on one daemon must not sweep each other's. */}}
{{- define "sandbox.instance" -}}
{{- $whole := printf "%s-%s" .Release.Namespace (include "sandbox.name" .) -}}
{{- if le (len $whole) 42 }}{{ $whole }}{{ else }}{{ printf "%s-%s" (trunc 33 $whole | trimSuffix "-") (sha256sum $whole | trunc 8) }}{{ end -}}
{{- end }}

{{/* docker-socket, docker-host, mock or none. Choosing two is refused. */}}
{{- define "sandbox.backend" -}}
{{- $chosen := list -}}
{{- if .Values.docker.socket.enabled }}{{ $chosen = append $chosen "docker-socket" }}{{ end -}}
{{- if .Values.docker.host }}{{ $chosen = append $chosen "docker-host" }}{{ end -}}
{{- if .Values.mock.enabled }}{{ $chosen = append $chosen "mock" }}{{ end -}}
{{- if gt (len $chosen) 1 -}}
{{- fail "choose one backend: docker.socket.enabled, docker.host or mock.enabled" -}}
{{- end -}}
{{- if and .Values.docker.socket.enabled (kindIs "invalid" .Values.docker.socket.groupId) -}}
{{- fail "docker.socket.groupId is needed: the number that `stat -c %g /var/run/docker.sock` prints on the node" -}}
{{- end -}}
{{- if and .Values.docker.host (not .Values.docker.tls.existingSecret) -}}
{{- fail "docker.host needs docker.tls.existingSecret: a daemon without TLS gives root on its machine to everyone who reaches it" -}}
{{- end -}}
{{- default "none" (first $chosen) -}}
{{- end }}

{{- define "sandbox.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "sandbox.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Numbers of values are floats: 1048576 would be written 1.048576e+06. */}}
{{- define "sandbox.setting" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end }}

{{/* What the Pods of the hooks share. */}}
{{- define "sandbox.hookPod" -}}
securityContext: {{- include "sandbox.podSecurity" . | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {}
{{- end }}

{{- define "sandbox.hookContainer" -}}
image: {{ include "sandbox.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext: {{- include "sandbox.containerSecurity" . | nindent 2 }}
resources:
  requests: {cpu: 10m, memory: 64Mi}
  limits: {memory: 256Mi}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
{{- end }}
