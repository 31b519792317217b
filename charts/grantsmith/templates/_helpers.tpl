{{- define "grantsmith.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "grantsmith.grantsNamespace" -}}
{{ .Values.grants.namespace | default (printf "%s-licenses" .Release.Namespace | trunc 63 | trimSuffix "-") }}
{{- end -}}

{{/* Where the server is found, as its certificate must say. */}}
{{- define "grantsmith.serverHost" -}}
{{ include "grantsmith.fullname" . }}-server.{{ .Release.Namespace }}.svc
{{- end -}}

{{- define "grantsmith.tlsSecret" -}}
{{ .Values.server.tls.secretName | default (printf "%s-server-tls" (include "grantsmith.fullname" .)) }}
{{- end -}}

{{/* What follows takes a list: the root, and the part (server, webhook or operator). */}}
{{- define "grantsmith.name" -}}
{{ include "grantsmith.fullname" (first .) }}-{{ last . }}
{{- end -}}

{{- define "grantsmith.selector" -}}
app.kubernetes.io/name: {{ default (first .).Chart.Name (first .).Values.nameOverride }}
app.kubernetes.io/instance: {{ (first .).Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end -}}

{{- define "grantsmith.labels" -}}
{{ include "grantsmith.selector" . }}
app.kubernetes.io/part-of: grantsmith
app.kubernetes.io/version: {{ (first .).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (first .).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (first .).Chart.Name (first .).Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "grantsmith.image" -}}
{{- $root := first . -}}
{{- $image := ternary $root.Values.operator.image $root.Values.image (eq (last .) "operator") -}}
{{- if $image.digest -}}
image: {{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
image: {{ printf "%s:%s" $image.repository ($image.tag | default $root.Chart.AppVersion) }}
{{- end }}
imagePullPolicy: {{ $image.pullPolicy }}
{{- end -}}

{{/* What all pods have in common, beside their containers and volumes. */}}
{{- define "grantsmith.pod" -}}
{{- $root := first . -}}
{{- $part := index $root.Values (last .) -}}
serviceAccountName: {{ include "grantsmith.name" . }}
{{- /* Services would be told by variables that read like settings: GRANTSMITH_SERVER_PORT. */}}
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- /* The programs end within 25 seconds of SIGTERM, the webhook after its drain. */}}
terminationGracePeriodSeconds: {{ add 35 (default 5 $part.drainSeconds) }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $part.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "grantsmith.spread" -}}
{{- $own := dict "matchLabels" (include "grantsmith.selector" . | fromYaml) -}}
{{- $given := (index (first .).Values (last .)).topologySpreadConstraints -}}
topologySpreadConstraints:
{{- range $given }}
  - {{- toYaml (merge (deepCopy .) (dict "labelSelector" $own)) | nindent 4 }}
{{- else }}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector: {{- toYaml $own | nindent 6 }}
    {{- /* Else the pods of the version before would count. */}}
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}
{{- end -}}

{{/* What all containers have in common. */}}
{{- define "grantsmith.container" -}}
{{- $part := index (first .).Values (last .) -}}
{{ include "grantsmith.image" . }}
{{- if or $part.extraEnv (eq (last .) "server") }}
env:
  {{- if eq (last .) "server" }}
  # For hand tools that are run in the pod; the server itself knows neither.
  - name: GRANTSMITH_SERVER
    value: {{ ternary "http" "https" $part.tls.insecure }}://localhost:50051
  - name: GRANTSMITH_TOKEN_FILE
    value: {{ ternary "/etc/grantsmith/secrets/grpc-tokens" "/var/lib/grantsmith/grantsmith.db.tokens" (ne $part.auth.tokensSecret.name "") }}
  {{- end }}
  {{- with $part.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- with $part.resources }}
resources: {{- toYaml . | nindent 2 }}
{{- end }}
{{- /* A database that is brought up to date may take its time. */}}
startupProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 300
livenessProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end -}}

{{/* The source of the volume with further roots. */}}
{{- define "grantsmith.roots" -}}
{{- if .Values.ca.secretName -}}
secret:
  secretName: {{ .Values.ca.secretName }}
{{- else -}}
configMap:
  name: {{ .Values.ca.configMap }}
{{- end }}
  items: [{key: {{ .Values.ca.key }}, path: roots.pem}]
{{- end -}}

{{/* A key of a Secret as a file: takes the reference and the file's name. */}}
{{- define "grantsmith.secretFile" -}}
- secret:
    name: {{ (first .).name }}
    items: [{key: {{ (first .).key }}, path: {{ last . }}}]
{{- end -}}

{{/* Egress to name servers, which may be on the node. */}}
{{- define "grantsmith.egressDns" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}

{{/* Egress to anywhere: takes the root, and the addresses whose ports are needed besides. */}}
{{- define "grantsmith.egressPorts" -}}
{{- $ports := list -}}
{{- range (first .).Values.networkPolicy.egressPorts }}{{ $ports = append $ports (int .) }}{{ end -}}
{{- range last . -}}
{{- if . -}}
{{- $url := urlParse . -}}
{{- $told := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) -}}
{{- $usual := get (dict "http" 80 "https" 443 "smtp" 25 "smtps" 465 "smtp+starttls" 587) $url.scheme -}}
{{- $ports = append $ports (int ($told | default $usual)) -}}
{{- end -}}
{{- end -}}
- ports:
{{- range $ports | uniq }}
    - {port: {{ . }}, protocol: TCP}
{{- end }}
{{- end -}}

{{/* Ingress to the admin port. */}}
{{- define "grantsmith.ingressMetrics" -}}
- ports:
    - {port: admin, protocol: TCP}
{{- with .Values.networkPolicy.metricsFrom }}
  from: {{- toYaml . | nindent 4 }}
{{- end }}
{{- end -}}

{{- define "grantsmith.publicHost" -}}
{{ regexReplaceAll ":[0-9]+$" (urlParse .Values.publicUrl).host "" }}
{{- end -}}

{{/* Where a path below the public address lies; the address may end in a slash. */}}
{{- define "grantsmith.publicUrl" -}}
{{ .Values.publicUrl | trimSuffix "/" }}
{{- end -}}

{{- define "grantsmith.serviceMonitor" -}}
{{- $monitor := (first .).Values.metrics.serviceMonitor -}}
{{- if $monitor.enabled -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "grantsmith.name" . }}
  namespace: {{ (first .).Release.Namespace }}
  labels:
    {{- include "grantsmith.labels" . | nindent 4 }}
    {{- with $monitor.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels: {{- include "grantsmith.selector" . | nindent 6 }}
  endpoints:
    - port: admin
      interval: {{ $monitor.interval }}
{{- end -}}
{{- end -}}

{{- define "grantsmith.pdb" -}}
{{- if gt (int (index (first .).Values (last .)).replicas) 1 -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "grantsmith.name" . }}
  namespace: {{ (first .).Release.Namespace }}
  labels: {{- include "grantsmith.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  # A pod that is broken anyway holds up no drain.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "grantsmith.selector" . | nindent 6 }}
{{- end -}}
{{- end -}}
