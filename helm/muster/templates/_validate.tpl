{{/* Combinations of values that cannot work. Each message says which, and what would do. */}}
{{- define "muster.validate" -}}
{{- $values := .Values -}}

{{- range $what := list "database" "redis" -}}
{{- $given := 0 -}}
{{- $own := get $values $what -}}
{{- if $own.url }}{{ $given = add1 $given }}{{ end -}}
{{- if $own.existingSecret }}{{ $given = add1 $given }}{{ end -}}
{{- if $values.trial.enabled }}{{ $given = add1 $given }}{{ end -}}
{{- if eq (int $given) 0 -}}
{{- fail (printf "no %s is given: set %s.url or %s.existingSecret, or trial.enabled for one that comes along" $what $what $what) -}}
{{- end -}}
{{- if gt (int $given) 1 -}}
{{- fail (printf "more than one %s is given: set one of %s.url, %s.existingSecret and trial.enabled" $what $what $what) -}}
{{- end -}}
{{- if and $own.ca.existingSecret (or $values.trial.enabled (hasPrefix "redis://" $own.url)) -}}
{{- fail (printf "%s.ca.existingSecret is given, but %s is reached without TLS" $what $what) -}}
{{- end -}}
{{- end -}}

{{- $gateway := $values.gateway -}}
{{- $scaling := $gateway.autoscaling -}}
{{- if $scaling.enabled -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- fail (printf "gateway.autoscaling.minReplicas (%v) is more than maxReplicas (%v)" $scaling.minReplicas $scaling.maxReplicas) -}}
{{- end -}}
{{- if gt (int $scaling.targetConnections) (int $gateway.maxConnections) -}}
{{- fail (printf "gateway.autoscaling.targetConnections (%v) is more than gateway.maxConnections (%v): it could never be reached" (int $scaling.targetConnections) (int $gateway.maxConnections)) -}}
{{- end -}}
{{- $drain := include "muster.drain" . | fromJson -}}
{{- if lt (int $scaling.scaleDownAfterSeconds) (int $drain.total) -}}
{{- fail (printf "gateway.autoscaling.scaleDownAfterSeconds (%v) is shorter than a drain takes (%v s for drainSeconds %v)" (int $scaling.scaleDownAfterSeconds) $drain.total (int $values.drainSeconds)) -}}
{{- end -}}
{{- end -}}

{{- /* While one gateway drains, the others admit its agents. With a single one, its successor does. */ -}}
{{- $others := include "muster.otherGateways" . | int64 -}}
{{- $each := include "muster.admission" . | int64 -}}
{{- $admitted := mul $others $each -}}
{{- $sent := div (add (int $gateway.maxConnections) (sub (int $values.drainSeconds) 1)) (int $values.drainSeconds) -}}
{{- if gt $sent $admitted -}}
{{- fail (printf "drainSeconds (%v) is too short: a gateway with gateway.maxConnections (%v) would send away %v agents a second, and the others admit %v (gateway.admissionPerSecond %v): set drainSeconds to %v or more" (int $values.drainSeconds) (int $gateway.maxConnections) $sent $admitted $each (div (add (int $gateway.maxConnections) (sub $admitted 1)) $admitted)) -}}
{{- end -}}
{{- if gt (int $gateway.drainPerSecond) $admitted -}}
{{- fail (printf "gateway.drainPerSecond (%v) is more than the other gateways admit a second (%v)" (int $gateway.drainPerSecond) $admitted) -}}
{{- end -}}

{{- /* In a long outage gateways have to turn agents away before they are killed for their memory: docs/kubernetes.md, Size. */ -}}
{{- $memory := include "muster.gatewayMemory" . | int64 -}}
{{- $pending := include "muster.pendingBytes" . | int64 -}}
{{- $needed := add $pending (mul (int64 $gateway.maxConnections) 6144) 67108864 -}}
{{- if and $memory (gt $needed $memory) -}}
{{- fail (printf "gateway.resources.limits.memory (%v) is too little for gateway.maxConnections (%v) and max_pending_bytes (%v): together they may take %v MiB" $gateway.resources.limits.memory (int $gateway.maxConnections) $pending (div $needed 1048576)) -}}
{{- end -}}

{{- $shown := ne (include "muster.clientCertificates" .) "off" -}}
{{- if and $shown (not $gateway.tls.existingSecret) -}}
{{- fail "gateway.settings.client_certificates needs gateway.tls.existingSecret: agents show certificates in TLS of the gateways' own" -}}
{{- end -}}
{{- if and $gateway.clientCa.existingSecret (not $shown) -}}
{{- fail "gateway.clientCa.existingSecret needs gateway.settings.client_certificates: optional or required" -}}
{{- end -}}
{{- if $values.agentAuthority.existingSecret -}}
{{- if not $shown -}}
{{- fail "agentAuthority.existingSecret needs gateway.settings.client_certificates: optional or required, for agents could not show the certificates that they get" -}}
{{- end -}}
{{- if not $values.configService.settings.opamp_url -}}
{{- fail "agentAuthority.existingSecret needs configService.settings.opamp_url: agents that are given a certificate are told where to connect with it" -}}
{{- end -}}
{{- end -}}

{{- if $values.ingress.enabled -}}
{{- if not $values.ingress.host }}{{ fail "ingress.host is not set" }}{{ end -}}
{{- if and $values.ingress.tls.enabled (not $values.ingress.tls.secretName) -}}
{{- fail "ingress.tls.secretName is not set: agents' tokens must not cross a network without TLS" -}}
{{- end -}}
{{- end -}}
{{- if $values.certificate.enabled -}}
{{- if $values.ingress.enabled -}}
{{- if not $values.ingress.tls.enabled }}{{ fail "certificate.enabled needs ingress.tls.enabled" }}{{ end -}}
{{- else if not $gateway.tls.existingSecret -}}
{{- fail "certificate.enabled needs ingress.enabled, or gateway.tls.existingSecret for the gateways' own TLS" -}}
{{- else if not $values.certificate.dnsNames -}}
{{- fail "certificate.dnsNames is empty: which names do agents connect to?" -}}
{{- end -}}
{{- if not $values.certificate.issuerRef.name }}{{ fail "certificate.issuerRef.name is not set" }}{{ end -}}
{{- end -}}
{{- range $name := list "httpRoute" "adminRoute" -}}
{{- $route := get $values $name -}}
{{- if and $route.enabled (not $route.parentRefs) }}{{ fail (printf "%s.parentRefs is empty: which Gateway is it for?" $name) }}{{ end -}}
{{- end -}}
{{- if and $values.adminRoute.enabled (not $values.adminRoute.hostnames) }}{{ fail "adminRoute.hostnames is empty: the admin API needs a host of its own" }}{{ end -}}
{{- end -}}
