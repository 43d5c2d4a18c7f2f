{{/* Names. Services are called RELEASE-muster-…, whatever the release is called. */}}
{{- define "muster.name" -}}
{{- $name := printf "%s-muster" .Release.Name -}}
{{- if gt (len $name) 45 -}}
{{- fail (printf "the release's name %q is too long: %d characters are possible" .Release.Name 38) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* Labels that never change: selectors are made of them. */}}
{{- define "muster.selector" -}}
app.kubernetes.io/name: muster
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "muster.labels" -}}
{{ include "muster.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "muster.image" -}}
{{- printf "%s:%s" .Values.image.repository (include "muster.tag" .) -}}
{{- end -}}
{{/* A number in a file of values comes as one with a fraction. */}}
{{- define "muster.tag" -}}
{{- $tag := .Values.image.tag -}}
{{- ternary $tag (int64 $tag | toString) (kindIs "string" $tag) | default .Chart.AppVersion -}}
{{- end -}}

{{- define "muster.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "muster.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* Secrets that pods read: the user's, or the release's. */}}
{{- define "muster.databaseSecret" -}}
{{- .Values.database.existingSecret | default (printf "%s-database" (include "muster.name" .)) -}}
{{- end -}}
{{- define "muster.redisSecret" -}}
{{- .Values.redis.existingSecret | default (printf "%s-redis" (include "muster.name" .)) -}}
{{- end -}}
{{- define "muster.operatorTokenSecret" -}}
{{- .Values.operatorToken.existingSecret | default (printf "%s-operator-token" (include "muster.name" .)) -}}
{{- end -}}
{{- define "muster.agentTokenSecret" -}}
{{- .Values.agentToken.existingSecret | default (printf "%s-agent-token" (include "muster.name" .)) -}}
{{- end -}}

{{- define "muster.redisPrefix" -}}
{{- .Values.redis.prefix | default (printf "%s:%s" .Release.Namespace .Release.Name) -}}
{{- end -}}

{{/*
The drain, all from drainSeconds, in seconds:
  delay     readiness is off, newcomers still come: kube-proxy and load balancers need a moment to see it
  window    agents are sent away, one after another
  grace     for those that leave by themselves
  handover  for what was said last to be stored
  total     when nothing of it is left to do
  kill      when Kubernetes may kill the pod: a few seconds later, for what the process does besides
*/}}
{{- define "muster.drain" -}}
{{- $window := int .Values.drainSeconds -}}
{{- $delay := min 30 (max 5 (div $window 6)) -}}
{{- $grace := 2 -}}
{{- $handover := 10 -}}
{{- $total := add $delay $window $grace $handover -}}
{{- dict "delay" $delay "window" $window "grace" $grace "handover" $handover "total" $total "kill" (add $total 8) | toJson -}}
{{- end -}}

{{/* Variables of the pods that secrets of the user's have. */}}
{{- define "muster.envFrom" -}}
{{- with list .Values.packages.existingSecret .Values.telemetry.existingSecret | compact | uniq -}}
envFrom:
{{- range . }}
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* How many gateways can take the agents of one that drains. Of a single one, its successor does. */}}
{{- define "muster.otherGateways" -}}
{{- max 1 (sub (int (include "muster.fewestGateways" .)) 1) -}}
{{- end -}}

{{/* Newcomers a second that one gateway takes. */}}
{{- define "muster.admission" -}}
{{- $most := mul (int .Values.drainSeconds) (int (include "muster.otherGateways" .)) -}}
{{- $needed := div (add (int .Values.gateway.maxConnections) (sub $most 1)) $most -}}
{{- .Values.gateway.admissionPerSecond | default (min 5000 (max 1000 $needed)) | int64 -}}
{{- end -}}

{{/* Fewest gateways at any time. */}}
{{- define "muster.fewestGateways" -}}
{{- if .Values.gateway.autoscaling.enabled -}}
{{- .Values.gateway.autoscaling.minReplicas -}}
{{- else -}}
{{- .Values.gateway.replicas -}}
{{- end -}}
{{- end -}}

{{/*
How many gateways to run. With autoscaling as many as there are: a Deployment that loses the number gets one, and all gateways but that one
would drain. Whoever renders without a cluster gets minReplicas.
*/}}
{{- define "muster.gateways" -}}
{{- $scaling := .Values.gateway.autoscaling -}}
{{- if $scaling.enabled -}}
{{- $running := lookup "apps/v1" "Deployment" .Release.Namespace (printf "%s-gateway" (include "muster.name" .)) -}}
{{- $count := dig "spec" "replicas" (int $scaling.minReplicas) ($running | default dict) | int -}}
{{- min (max $count (int $scaling.minReplicas)) (int $scaling.maxReplicas) -}}
{{- else -}}
{{- .Values.gateway.replicas -}}
{{- end -}}
{{- end -}}

{{/* Whether agents show certificates: off, optional or required. */}}
{{- define "muster.clientCertificates" -}}
{{- .Values.gateway.settings.client_certificates | default "off" -}}
{{- end -}}

{{/* A quantity of Kubernetes, such as 1.5Gi, in bytes. */}}
{{- define "muster.bytes" -}}
{{- $units := dict "" 1 "m" 0.001 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000
    "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- if kindIs "string" . -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (get $units (regexFind "[A-Za-z]*$" .)) | int64 -}}
{{- else -}}
{{- int64 . -}}
{{- end -}}
{{- end -}}

{{/* Memory of a gateway, in bytes; 0 for no limit. */}}
{{- define "muster.gatewayMemory" -}}
{{- include "muster.bytes" (dig "limits" "memory" 0 .Values.gateway.resources) -}}
{{- end -}}

{{/* What a gateway may keep of what is not stored: half of its memory, and no more than the setting takes. 0 leaves it to the program. */}}
{{- define "muster.pendingBytes" -}}
{{- .Values.gateway.settings.max_pending_bytes | default (min 4294967295 (div (include "muster.gatewayMemory" . | int64) 2)) | int64 -}}
{{- end -}}

{{/* One line of a settings file. */}}
{{- define "muster.setting" -}}
{{- if kindIs "string" .value -}}
{{ .key }} = {{ .value | toJson }}
{{- else if kindIs "slice" .value -}}
{{ .key }} = [{{ range $index, $item := .value }}{{ if $index }}, {{ end }}{{ $item | toString | toJson }}{{ end }}]
{{- else if kindIs "bool" .value -}}
{{ .key }} = {{ .value }}
{{- else if ne (float64 .value) (float64 (int64 .value)) -}}
{{ .key }} = {{ .value }}
{{- else -}}
{{ .key }} = {{ int64 .value }}
{{- end -}}
{{- end -}}

{{/* The settings file of the gateways. */}}
{{- define "muster.gatewaySettings" -}}
{{- $drain := include "muster.drain" . | fromJson -}}
{{- $settings := dict
    "log_format" "json"
    "log_level" .Values.logLevel
    "redis_prefix" (include "muster.redisPrefix" .)
    "max_connections" .Values.gateway.maxConnections
    "admission_per_second" (include "muster.admission" . | int64)
    "drain_delay" (printf "%vs" $drain.delay)
    "drain_window" (printf "%vs" $drain.window)
    "drain_grace" (printf "%vs" $drain.grace)
    "drain_handover" (printf "%vs" $drain.handover)
    "drain_per_second" .Values.gateway.drainPerSecond
-}}
{{- with .Values.packages.storage }}{{ $_ := set $settings "package_storage" . }}{{ end -}}
{{- with .Values.telemetry.otlpEndpoint -}}
{{- $_ := set $settings "otlp_endpoint" . -}}
{{- $_ := set $settings "traced_reports" ($.Values.telemetry.tracedReports | toString) -}}
{{- end -}}
{{- $pending := include "muster.pendingBytes" . | int64 -}}
{{- if and $pending (not (hasKey .Values.gateway.settings "max_pending_bytes")) }}{{ $_ := set $settings "max_pending_bytes" $pending }}{{ end -}}
{{- if .Values.gateway.tls.existingSecret -}}
{{- $_ := set $settings "tls_certificate_file" "/etc/muster/tls/tls.crt" -}}
{{- $_ := set $settings "tls_key_file" "/etc/muster/tls/tls.key" -}}
{{- end -}}
{{- if .Values.gateway.clientCa.existingSecret -}}
{{- $_ := set $settings "client_ca_file" "/etc/muster/client-ca/ca.crt" -}}
{{- end -}}
{{- include "muster.settingsFile" (dict "settings" $settings "own" .Values.gateway.settings "where" "gateway") -}}
{{- end -}}

{{/* The settings file of the config services. */}}
{{- define "muster.configServiceSettings" -}}
{{- $settings := dict
    "log_format" "json"
    "log_level" .Values.logLevel
    "redis_prefix" (include "muster.redisPrefix" .)
    "database_connections" .Values.database.connections
    "schema_wait" (printf "%vs" .Values.migration.waitSeconds)
-}}
{{- with .Values.packages.storage }}{{ $_ := set $settings "package_storage" . }}{{ end -}}
{{- with .Values.telemetry.otlpEndpoint -}}
{{- $_ := set $settings "otlp_endpoint" . -}}
{{- $_ := set $settings "traced_reports" ($.Values.telemetry.tracedReports | toString) -}}
{{- end -}}
{{- if .Values.agentAuthority.existingSecret -}}
{{- $_ := set $settings "agent_ca_file" "/etc/muster/agent-ca/tls.crt" -}}
{{- $_ := set $settings "agent_ca_key_file" "/etc/muster/agent-ca/tls.key" -}}
{{- end -}}
{{- include "muster.settingsFile" (dict "settings" $settings "own" .Values.configService.settings "where" "configService") -}}
{{- end -}}

{{/* A settings file, without what is given in other ways. */}}
{{- define "muster.settingsFile" -}}
{{- $fixed := list "opamp_listen" "admin_listen" "metrics_listen" "listen_file" "redis_url" "redis_url_file" "database_url"
    "database_url_file" "otlp_endpoint" "traced_reports" "package_storage" "tls_certificate_file" "tls_key_file" "client_ca_file"
    "redis_ca_file" "agent_ca_file" "agent_ca_key" "agent_ca_key_file" "operator_token" "operator_token_file" "agent_token" "agent_token_file" -}}
{{- range $key, $value := .own -}}
{{- if or (hasKey $.settings $key) (has $key $fixed) -}}
{{- fail (printf "%s.settings.%s cannot be set: another value of the chart decides it" $.where $key) -}}
{{- end -}}
{{- end -}}
{{- $all := merge (deepCopy .own) .settings -}}
{{- range $key := keys $all | sortAlpha }}
{{ include "muster.setting" (dict "key" $key "value" (get $all $key)) }}
{{- end }}
{{- end -}}

{{/* What every pod of ours has: nobody's rights but to run. */}}
{{- define "muster.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{- define "muster.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "muster.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where pods go. */}}
{{- define "muster.placement" -}}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
{{- if .values.topologySpreadConstraints }}
{{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else }}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "muster.selector" (dict "root" $.root "component" $.component) | nindent 8 }}
    # Of one version: an upgrade would otherwise see the pods that are leaving.
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}
{{- end -}}

{{/* Where agents connect to. */}}
{{- define "muster.path" -}}
{{- .Values.gateway.settings.opamp_path | default "/v1/opamp" -}}
{{- end -}}

{{/* All that agents ask the gateways for: OpAMP, and the files of packages. */}}
{{- define "muster.paths" -}}
{{- list (include "muster.path" .) (ternary "/v1/packages" "" (ne .Values.packages.storage "")) | compact | uniq | toJson -}}
{{- end -}}

{{/* Parts of network policies. */}}
{{- define "muster.peers" }}
{{- with . }}
from: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- define "muster.egress" }}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- range $what := .to }}
- ports:
    {{- $ports := list }}
    {{- range get $.root.Values.networkPolicy (printf "%sPorts" $what) }}{{ $ports = append $ports (int64 .) }}{{ end }}
    {{- with get (get $.root.Values $what) "url" | regexFind ":[0-9]+(/|\\?|$)" | regexFind "[0-9]+" }}
    {{- $ports = append $ports (int64 .) }}
    {{- end }}
    {{- range $ports | uniq }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- if $.root.Values.trial.enabled }}
  to:
    - podSelector:
        matchLabels: {{- include "muster.selector" (dict "root" $.root "component" (ternary "postgres" "redis" (eq $what "database"))) | nindent 10 }}
  {{- end }}
{{- end }}
{{- end }}
{{/* The collector, wherever it is. */}}
{{- define "muster.collectorEgress" }}
{{- with .Values.telemetry.otlpEndpoint }}
{{- $url := urlParse . }}
- ports: [{port: {{ regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "443" "80" (eq $url.scheme "https")) }}, protocol: TCP}]
{{- end }}
{{- end }}
