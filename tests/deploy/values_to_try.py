"""Values of the chart that check.py tries."""

# What must be refused, and a word of what is said then.
TRIAL = {"trial": {"enabled": True}}
REFUSED: list[tuple[dict, str]] = [
    ({"gatway": {}}, "gatway"),
    ({"gateway": {"replica": 3}}, "replica"),
    ({"gateway": {"replicas": "3"}}, "replicas"),
    ({"gateway": {"replicas": 0}}, "replicas"),
    ({"image": {"pullPolicy": "always"}}, "pullPolicy"),
    ({"image": {"repository": "muster:latest"}}, "repository"),
    ({"drainSeconds": 0}, "drainSeconds"),
    ({"drainSeconds": "30s"}, "drainSeconds"),
    ({"gateway": {"resources": {"limit": {}}}}, "limit"),
    ({"gateway": {"settings": {"ping-after": "1s"}}}, "ping-after"),
    ({"gateway": {"settings": {"drain_window": "1s"}}}, "gateway.settings.drain_window cannot be set"),
    ({"gateway": {"settings": {"redis_url": "redis://x"}}}, "gateway.settings.redis_url cannot be set"),
    ({"configService": {"settings": {"schema_wait": "1s"}}}, "configService.settings.schema_wait cannot be set"),
    ({"gateway": {"podDisruptionBudget": {"maxUnavailable": 0}}}, "maxUnavailable"),
    ({"trial": {"enabled": False}}, "no database is given"),
    ({"database": {"existingSecret": "x"}}, "more than one database is given"),
    ({"redis": {"url": "redis://x"}}, "more than one redis is given"),
    ({"database": {"ca": {"existingSecret": "x"}}}, "database is reached without TLS"),
    ({"trial": {"enabled": False}, "database": {"existingSecret": "x"}, "redis": {"url": "redis://x", "ca": {"existingSecret": "x"}}}, "redis is reached without TLS"),
    ({"trial": {"enabled": False}, "database": {"url": "mysql://x"}, "redis": {"existingSecret": "x"}}, "url"),
    ({"trial": {"enabled": False}, "database": {"existingSecret": "x"}}, "no redis is given"),
    ({"gateway": {"maxConnections": 400000}}, "drainSeconds (30) is too short"),
    ({"drainSeconds": 1, "gateway": {"replicas": 2}}, "set drainSeconds to 4 or more"),
    ({"gateway": {"replicas": 1, "maxConnections": 40000, "admissionPerSecond": 1000}}, "set drainSeconds to 40 or more"),
    ({"image": {"tag": 1.5}}, "tag"),
    ({"gateway": {"resources": {"limits": {"memory": "256Mi"}}}}, "together they may take 309 MiB"),
    ({"gateway": {"settings": {"max_pending_bytes": 1 << 30}}}, "gateway.resources.limits.memory (1Gi) is too little"),
    ({"gateway": {"settings": {"client_certificates": "optional"}}}, "needs gateway.tls.existingSecret"),
    ({"gateway": {"clientCa": {"existingSecret": "x"}}}, "gateway.clientCa.existingSecret needs gateway.settings.client_certificates"),
    ({"agentAuthority": {"existingSecret": "x"}}, "agentAuthority.existingSecret needs gateway.settings.client_certificates"),
    (
        {"agentAuthority": {"existingSecret": "x"}, "gateway": {"tls": {"existingSecret": "x"}, "settings": {"client_certificates": "required"}}},
        "agentAuthority.existingSecret needs configService.settings.opamp_url",
    ),
    ({"gateway": {"drainPerSecond": 3000}}, "gateway.drainPerSecond (3000) is more than"),
    ({"gateway": {"autoscaling": {"enabled": True, "minReplicas": 11}}}, "is more than maxReplicas (10)"),
    ({"gateway": {"autoscaling": {"enabled": True, "targetConnections": 30000}}}, "could never be reached"),
    ({"gateway": {"autoscaling": {"enabled": True, "scaleDownAfterSeconds": 30}}}, "shorter than a drain takes (47 s"),
    ({"ingress": {"enabled": True}}, "ingress.host is not set"),
    ({"ingress": {"enabled": True, "host": "a"}}, "ingress.tls.secretName is not set"),
    ({"certificate": {"enabled": True}}, "certificate.enabled needs ingress.enabled"),
    ({"certificate": {"enabled": True}, "gateway": {"tls": {"existingSecret": "s"}}}, "certificate.dnsNames is empty"),
    ({"ingress": {"enabled": True, "host": "a", "tls": {"secretName": "s"}}, "certificate": {"enabled": True}}, "issuerRef.name"),
    ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs is empty"),
    ({"adminRoute": {"enabled": True, "parentRefs": [{"name": "x"}]}}, "adminRoute.hostnames is empty"),
]

# Values that users reach for first: what is asked for is what comes out, alone and together.
FIRST = [
    {"drainSeconds": seconds, "gateway": {"replicas": gateways}, "configService": {"replicas": services}}
    for seconds, gateways, services in [(4, 1, 1), (5, 2, 1), (10, 1, 2), (10, 2, 2), (30, 3, 2), (600, 20, 8)]
]
IMAGES = [({}, "muster:0.1.0"), ({"repository": "localhost:5000/a/muster", "tag": "two"}, "localhost:5000/a/muster:two"), ({"tag": 20250101}, "muster:20250101")]
PLACES = [
    {"database": {"url": "postgres://u:p@db:6543/m"}, "redis": {"url": "rediss://:p@redis:6380/1"}, "operatorToken": {"existingSecret": "o"}},
    {"database": {"existingSecret": "d"}, "redis": {"existingSecret": "r"}, "image": {"pullPolicy": "Never"}},
    {"database": {"existingSecret": "d"}, "redis": {"url": "redis://redis"}, "image": {"pullPolicy": "Always"}},
    TRIAL,
]

# Other values for those that may not be anything, and what else must be given for a value to be of use.
OTHERS = {
    "image.pullPolicy": "Always", "gateway.service.type": "NodePort", "gateway.service.externalTrafficPolicy": "Local",
    "gateway.service.loadBalancerSourceRanges": ["10.0.0.0/8"], "database.url": "postgres://other", "redis.url": "redis://other",
    "trial.postgres.pullPolicy": "Always", "trial.redis.pullPolicy": "Always", "trial.postgres.storage": "9Gi",
    "certificate.duration": "24h", "certificate.renewBefore": "1h", "metrics.serviceMonitor.interval": "1m",
    "image.pullSecrets": ["x"], "gateway.settings": {"ping_after": "1s"}, "configService.settings": {"gc_interval": "2h"},
    "networkPolicy.databasePorts": [1], "networkPolicy.redisPorts": [1], "httpRoute.hostnames": ["x"], "adminRoute.hostnames": ["x"],
    "httpRoute.parentRefs": [{"name": "x"}], "adminRoute.parentRefs": [{"name": "x"}], "gateway.autoscaling.enabled": False,
    "gateway.resources.limits.memory": "1500M", "telemetry.otlpEndpoint": "https://other", "metrics.prometheusRule.runbookBaseUrl": "https://other", "certificate.dnsNames": ["x"], "gateway.admissionPerSecond": 2000,
}
SHOWN = {"tls": {"existingSecret": "t"}, "settings": {"client_certificates": "optional"}}
EVERYTHING = {
    "gateway": {"autoscaling": {"enabled": True}, "service": {"type": "LoadBalancer"}},
    "ingress": {"enabled": True, "host": "a", "tls": {"secretName": "s"}}, "certificate": {"enabled": True, "issuerRef": {"name": "i"}},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]},
    "adminRoute": {"enabled": True, "parentRefs": [{"name": "g"}], "hostnames": ["h"]},
    "metrics": {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboards")},
    "telemetry": {"otlpEndpoint": "http://c:4318"}, "operatorToken": {"existingSecret": "operator"}, "agentToken": {"existingSecret": "agent"},
}
OUTSIDE = {"database": {"existingSecret": "d"}, "redis": {"existingSecret": "r"}}
WITHOUT = {
    # Values that are of use only when another one is not given, or is.
    "gateway.replicas": {"gateway": {"autoscaling": {"enabled": False}}},
    "gateway.clientCa.existingSecret": {"gateway": SHOWN},
    "agentAuthority.existingSecret": {"gateway": SHOWN, "configService": {"settings": {"opamp_url": "wss://o/v1/opamp"}}},
    "serviceAccount.name": {"serviceAccount": {"create": True}},
    "database.url": {"database": {"existingSecret": ""}}, "redis.url": {"redis": {"existingSecret": ""}},
    "ingress.enabled": {"certificate": {"enabled": False}}, "ingress.tls.enabled": {"certificate": {"enabled": False}},
}
