"""The table: servers, poolers, proxies, clouds and middleboxes with an idle timeout of their own.

In the order of ``tests/data/idle_timeouts.json``, the facts as collected (each with how it was
found, its consequences and advice), which a test compares with this table. Where two entries fit a
host equally well the first one counts.
"""

from typing import Final, NamedTuple

#: Seconds to allow one attempt to connect.
CONNECT_TIMEOUT: Final = 5.0
#: The same where the server may have to wake first (Aurora takes 15 to 30).
WAKING: Final = 40.0


class Provider(NamedTuple):
    """Something on the path to a server, or the server itself, as its maker documents it.

    Attributes:
        name: for people.
        kind: "server", "pooler", "proxy", "cloud" or "middlebox".
        host_suffixes: ends of host names that are its own.
        host_regexes: searched in the host name, in lower case.
        ports: if any, only a host with one of these is meant.
        gucs: settings that show it; those with a ``*`` cannot be asked for one by one.
        functions: SQL functions that show it.
        idle_timeout: seconds after which it ends or forgets an idle connection, unless
            configured otherwise; ``None``: off or not known.
        keepalives_help: whether TCP keepalives reset that timeout; ``None``: not known.
        max_lifetime: seconds after which it ends a connection in any case.
        scale_to_zero: it sleeps when unused and takes time to wake.
        connect_timeout: seconds to allow one attempt to connect.
        source: where this is from.
    """

    name: str
    kind: str
    host_suffixes: tuple[str, ...] = ()
    host_regexes: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    gucs: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    idle_timeout: float | None = None
    keepalives_help: bool | None = None
    max_lifetime: float | None = None
    scale_to_zero: bool = False
    connect_timeout: float = CONNECT_TIMEOUT
    source: str = ""


PROVIDERS: Final[tuple[Provider, ...]] = (
    Provider(
        "PostgreSQL: idle_session_timeout (14+)",
        "server",
        gucs=("idle_session_timeout",),
        keepalives_help=False,
        source="https://www.postgresql.org/docs/current/"
        "runtime-config-client.html#GUC-IDLE-SESSION-TIMEOUT; measured (PostgreSQL "
        "15.18, 18.6)",
    ),
    Provider(
        "PostgreSQL: idle_in_transaction_session_timeout (9.6+)",
        "server",
        gucs=("idle_in_transaction_session_timeout",),
        keepalives_help=False,
        source="https://www.postgresql.org/docs/current/runtime-config-client.html; measured "
        "(PostgreSQL 15.18, 18.6)",
    ),
    Provider(
        "PostgreSQL: transaction_timeout (17+)",
        "server",
        gucs=("transaction_timeout",),
        keepalives_help=False,
        source="measured (PostgreSQL 15.18, 18.6)",
    ),
    # Its 60 s are for the login only.
    Provider(
        "PostgreSQL: authentication_timeout",
        "server",
        gucs=("authentication_timeout",),
        keepalives_help=False,
        source="measured (PostgreSQL 15.18, 18.6)",
    ),
    Provider(
        "PostgreSQL: server-side tcp_keepalives_idle/_interval/_count",
        "server",
        gucs=("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count"),
        keepalives_help=True,
        source='PostgreSQL manual, section 19.3; AWS "Dead connection handling"; '
        "aiven/aiven-docs idle-connections.md; measured (PostgreSQL 15.18, 18.6)",
    ),
    Provider(
        "PostgreSQL: server-side tcp_user_timeout",
        "server",
        gucs=("tcp_user_timeout",),
        source="PostgreSQL manual, section 19.3; measured (PostgreSQL 15.18, 18.6)",
    ),
    Provider(
        "PostgreSQL: client_connection_check_interval (14+)",
        "server",
        gucs=("client_connection_check_interval",),
        source="PostgreSQL manual, section 19.3; Azure server parameter tables; measured "
        "(PostgreSQL 15.18, 18.6)",
    ),
    Provider(
        "PostgreSQL: shutdown/restart/failover/pg_terminate_backend",
        "server",
        keepalives_help=False,
        source="measured (PostgreSQL 15.18, 18.6)",
    ),
    Provider(
        "CockroachDB (self-hosted)",
        "server",
        gucs=("crdb_version",),
        keepalives_help=False,
        source="cockroachdb/docs@79e9a5d src/current/_includes/v25.4/misc/session-vars.md, "
        "v25.4/node-shutdown.md, v25.4/connection-pooling.md, "
        "_includes/v25.4/misc/haproxy.md; cockroach pgwire statusReportParams",
    ),
    Provider(
        "YugabyteDB YSQL (+ YSQL Connection Manager)",
        "server",
        keepalives_help=False,
        source="YugabyteDB documentation and source",
    ),
    Provider(
        "Amazon Aurora DSQL",
        "server",
        host_regexes=(r"\.dsql\.[a-z0-9-]+\.on\.aws$",),
        max_lifetime=3600.0,
        source="https://docs.aws.amazon.com/aurora-dsql/latest/userguide/CHAP_quotas.html",
    ),
    Provider(
        "PgBouncer (self-run)",
        "pooler",
        keepalives_help=False,
        source="pgbouncer/pgbouncer@13a344f doc/config.md, src/janitor.c; measured (PgBouncer "
        "1.18)",
    ),
    Provider(
        "Odyssey",
        "pooler",
        keepalives_help=False,
        source="https://github.com/yandex/odyssey/blob/89c48ea25ccb/docs/configuration/"
        "rules.md, global.md, sources/frontend.c, sources/machinarium/socket.c",
    ),
    Provider(
        "pgcat",
        "pooler",
        keepalives_help=False,
        source="https://github.com/postgresml/pgcat/blob/5b038813eb14/src/config.rs, "
        "src/client.rs, src/messages.rs, CONFIG.md",
    ),
    Provider(
        "PgDog",
        "pooler",
        keepalives_help=False,
        source="https://github.com/pgdogdev/pgdog/blob/b4601264e6bd/pgdog-config/src/"
        "general.rs, pgdog/src/net/messages/error_response.rs",
    ),
    Provider(
        "pgagroal",
        "pooler",
        keepalives_help=False,
        source="https://github.com/agroal/pgagroal/blob/63c05cfaf6f3/doc/CONFIGURATION.md",
    ),
    Provider(
        "Supavisor",
        "pooler",
        host_suffixes=(".pooler.supabase.com",),
        source="https://github.com/supabase/supavisor/blob/03e5cc569790/lib/supavisor/"
        "client_handler.ex, protocol/server.ex, tenants/tenant.ex",
    ),
    Provider(
        "Pgpool-II",
        "pooler",
        keepalives_help=False,
        source="https://github.com/pgpool/pgpool2/blob/243463af0951/doc/src/sgml/"
        "connection-pooling.sgml, src/protocol/pool_process_query.c, src/auth/pool_auth.c",
    ),
    Provider(
        "Amazon RDS Proxy",
        "pooler",
        host_regexes=(
            r"\.proxy-[a-z0-9]+\.[a-z0-9-]+\.rds\.amazonaws\.com$",
            r"\.proxy-[a-z0-9]+\.rds\.[a-z0-9-]+\.amazonaws\.com\.cn$",
            r"\.endpoint\.proxy-[a-z0-9]+\.[a-z0-9-]+\.rds\.amazonaws\.com$",
        ),
        idle_timeout=1800.0,
        keepalives_help=False,
        max_lifetime=86400.0,
        source="https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/"
        "rds-proxy-connections.html; botocore 1.43.11 rds model; "
        "awsdocs/amazon-aurora-user-guide@7a931b4 doc_source/rds-proxy.howitworks.md, "
        "rds-proxy-managing.md; regex from aws/aws-advanced-python-wrapper rds_utils.py",
    ),
    Provider(
        "Azure Database for PostgreSQL built-in PgBouncer",
        "pooler",
        host_suffixes=(".postgres.database.azure.com",),
        ports=(6432, 8432),
        keepalives_help=False,
        source="https://learn.microsoft.com/azure/postgresql/flexible-server/"
        "concepts-pgbouncer, server-parameters-table-pgbouncer",
    ),
    Provider(
        "AlloyDB / Cloud SQL managed connection pooling",
        "pooler",
        ports=(6432,),
        keepalives_help=False,
        source="https://cloud.google.com/alloydb/docs/configure-managed-connection-pooling",
    ),
    Provider(
        "Neon pooled endpoint",
        "pooler",
        host_regexes=(r"^ep-[a-z0-9-]+-pooler\..*\.neon\.tech$",),
        keepalives_help=False,
        scale_to_zero=True,
        connect_timeout=WAKING,
        source="Neon docs; neondatabase/neon#12897",
    ),
    # The pool differs from the service by a port that is not published.
    Provider(
        "Aiven PgBouncer pools",
        "pooler",
        keepalives_help=False,
        source="aiven/aiven-docs@073a07f static/includes/config-pg.md",
    ),
    Provider(
        "Supabase dedicated pooler (PgBouncer)",
        "pooler",
        host_regexes=(r"^db\.[a-z0-9]+\.supabase\.co$",),
        ports=(6543,),
        keepalives_help=False,
        source="supabase/supabase apps/docs/content/guides/database/connecting-to-postgres.mdx",
    ),
    Provider(
        "DigitalOcean connection pool",
        "pooler",
        host_suffixes=(".db.ondigitalocean.com",),
        ports=(25061,),
        keepalives_help=False,
        source="unsourced, after redwoodjs/graphql#6462 (ports), ory/hydra#1942 (host suffix)",
    ),
    Provider(
        "Crunchy Bridge PgBouncer",
        "pooler",
        host_suffixes=(".db.postgresbridge.com",),
        ports=(5431,),
        keepalives_help=False,
        source="https://docs.crunchybridge.com/how-to/pgbouncer",
    ),
    # The pool differs from the service by a port that is not published.
    Provider(
        "Timescale Cloud (Tiger) pooler",
        "pooler",
        keepalives_help=False,
        source="timescale/docs@4ffee56 use-timescale/services/connection-pooling.md",
    ),
    Provider(
        "HAProxy (mode tcp)",
        "proxy",
        keepalives_help=False,
        source="haproxy/haproxy@50872da doc/configuration.txt; measured (HAProxy 2.6.12)",
    ),
    Provider(
        "Envoy tcp_proxy / Istio sidecar",
        "proxy",
        idle_timeout=3600.0,
        keepalives_help=False,
        source="envoyproxy/envoy api/.../tcp_proxy/v3/tcp_proxy.proto; istio/istio#36499",
    ),
    Provider(
        "nginx stream",
        "proxy",
        idle_timeout=600.0,
        keepalives_help=False,
        source="nginx/nginx.org@3924a7f ngx_stream_proxy_module.xml",
    ),
    Provider(
        "Cloud SQL Auth Proxy (v2) / AlloyDB Auth Proxy",
        "proxy",
        host_regexes=(r"^/cloudsql/",),
        source="GoogleCloudPlatform/cloud-sql-proxy@31c3b33 internal/proxy/proxy.go, "
        "docs/cmd/cloud-sql-proxy.md",
    ),
    # The plain name.internal on record is not theirs alone: only these forms are.
    Provider(
        "Fly Postgres (unmanaged, postgres-flex) HAProxy",
        "proxy",
        host_regexes=(
            r"^top\d+\.nearest\.of\.[a-z0-9-]+\.internal$",
            r"^[a-z0-9-]+\.flycast$",
        ),
        ports=(5432,),
        idle_timeout=1800.0,
        keepalives_help=False,
        source="fly-apps/postgres-flex@10fdffa config/haproxy.cfg; superfly/docs@5c22c8c "
        "postgres/managing/scale-to-zero",
    ),
    Provider(
        "Google Cloud TCP/SSL proxy load balancer",
        "proxy",
        idle_timeout=30.0,
        keepalives_help=False,
        source="unsourced, after cockroachdb/docs "
        "v25.4/deploy-cockroachdb-on-google-cloud-platform.md; cockroachdb/docs#2687",
    ),
    Provider(
        "AWS Global Accelerator",
        "proxy",
        host_suffixes=(".awsglobalaccelerator.com",),
        idle_timeout=340.0,
        keepalives_help=False,
        source="pingcap/docs#21743; arcjet/arcjet-js#1479",
    ),
    Provider(
        "Cloudflare Gateway/Zero Trust TCP proxy",
        "proxy",
        idle_timeout=270.0,
        keepalives_help=False,
        source="cloudflare/cloudflare-docs#3405",
    ),
    Provider(
        "Amazon RDS for PostgreSQL",
        "cloud",
        host_suffixes=(".rds.amazonaws.com",),
        host_regexes=(
            r"^[^.]+\.[a-z0-9]+\.[a-z0-9-]+\.rds\.amazonaws\.com$",
            r"\.rds\.[a-z0-9-]+\.amazonaws\.com\.cn$",
        ),
        gucs=("rds.extensions",),
        functions=("rds_tools.dbi_resource_id()",),
        keepalives_help=True,
        source="aws/aws-advanced-python-wrapper database_dialect.py, utils/rds_utils.py; "
        "awsdocs/amazon-aurora-user-guide@7a931b4 Aurora.BestPractices.md",
    ),
    # The \.global- on record, with the rest of the name: it is found in other names.
    Provider(
        "Aurora PostgreSQL",
        "cloud",
        host_regexes=(
            r"\.cluster-(ro-|custom-)?[a-z0-9]+\.[a-z0-9-]+\.rds\.amazonaws\.com$",
            r"\.shardgrp-[a-z0-9]+\.[a-z0-9-]+\.rds\.amazonaws\.com$",
            r"\.global-[a-z0-9]+\.global\.rds\.amazonaws\.com$",
        ),
        gucs=("rds.extensions",),
        functions=("aurora_version()", "aurora_replica_status()"),
        keepalives_help=True,
        source="AWS 'Fast failover with Aurora PostgreSQL' (awsdocs@7a931b4), 'Dead connection "
        "handling'",
    ),
    Provider(
        "Aurora Serverless v1",
        "cloud",
        host_regexes=(r"\.cluster-[a-z0-9]+\.[a-z0-9-]+\.rds\.amazonaws\.com$",),
        functions=("aurora_version()",),
        scale_to_zero=True,
        connect_timeout=WAKING,
        source="botocore 1.43.11 rds ScalingConfiguration; aurora-serverless-v1.how-it-works.md",
    ),
    # Not told from Aurora by its name, so its longer connect_timeout is for the user to set.
    Provider(
        "Aurora Serverless v2 (auto-pause)",
        "cloud",
        host_regexes=(r"\.cluster-(ro-)?[a-z0-9]+\.[a-z0-9-]+\.rds\.amazonaws\.com$",),
        functions=("aurora_version()",),
        scale_to_zero=True,
        connect_timeout=WAKING,
        source="https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/"
        "aurora-serverless-v2-auto-pause.html; botocore rds "
        "ServerlessV2ScalingConfiguration; resume times from aws/agent-toolkit-for-aws "
        "(Aurora MySQL page)",
    ),
    Provider(
        "Azure Database for PostgreSQL - flexible server",
        "cloud",
        host_suffixes=(".postgres.database.azure.com",),
        gucs=("azure.extensions", "azure.*"),
        idle_timeout=240.0,
        keepalives_help=True,
        source="https://learn.microsoft.com/azure/postgresql/flexible-server/"
        "server-parameters-table-connections-and-authentication-tcp-settings; "
        "DFE-Digital/apply-for-teacher-training#3860; crate/crate#10779; "
        "cockroachdb/cockroach#13823",
    ),
    Provider(
        "Azure Database for PostgreSQL - single server",
        "cloud",
        host_suffixes=(".postgres.database.azure.com",),
        idle_timeout=240.0,
        keepalives_help=True,
        source="unsourced",
    ),
    Provider(
        "Google Cloud SQL for PostgreSQL",
        "cloud",
        host_suffixes=(".sql.goog",),
        host_regexes=(r"^/cloudsql/",),
        gucs=("cloudsql.iam_authentication", "cloudsql.*"),
        idle_timeout=600.0,
        keepalives_help=True,
        source="https://docs.cloud.google.com/sql/docs/debugging-connectivity",
    ),
    Provider(
        "AlloyDB for PostgreSQL",
        "cloud",
        host_suffixes=(".alloydb.goog", ".alloydb-psc.goog"),
        gucs=("alloydb.iam_authentication", "google_columnar_engine.enabled"),
        idle_timeout=600.0,
        keepalives_help=True,
        source="pg_sage detectCloudEnvironment; Google Cloud flags pages",
    ),
    # The pattern on record, ec2-*.amazonaws.com, is that of every public EC2 host.
    Provider(
        "Heroku Postgres",
        "cloud",
        source="unsourced, after bloom-housing/bloom#6076; heroku/heroku-buildpack-pgbouncer#73",
    ),
    Provider(
        "Neon (direct endpoint)",
        "cloud",
        host_suffixes=(".neon.tech",),
        host_regexes=(r"^ep-[a-z0-9-]+\.(?:c-\d+\.)?[a-z0-9-]+\.(?:aws|azure)\.neon\.tech$",),
        gucs=("neon.tenant_id", "neon.timeline_id"),
        idle_timeout=300.0,
        keepalives_help=False,
        scale_to_zero=True,
        connect_timeout=WAKING,
        source="Neon docs compute-lifecycle; neondatabase/website#1208 (57P01 text); neon.* "
        "GUCs; SO_KEEPALIVE on both legs: neondatabase/neon@6a35a3e "
        "proxy/src/pglb/mod.rs, compute/mod.rs",
    ),
    Provider(
        "Supabase direct",
        "cloud",
        host_regexes=(r"^db\.[a-z0-9]+\.supabase\.co$",),
        source="supabase/supabase apps/docs/.../connecting-to-postgres.mdx",
    ),
    Provider(
        "DigitalOcean Managed PostgreSQL",
        "cloud",
        host_suffixes=(".db.ondigitalocean.com",),
        source="unsourced, after redwoodjs/graphql#6462; ory/hydra#1942",
    ),
    Provider(
        "Aiven for PostgreSQL",
        "cloud",
        host_suffixes=(".aivencloud.com",),
        keepalives_help=True,
        source="aiven/aiven-docs@073a07f docs/products/postgresql/reference/idle-connections.md",
    ),
    Provider(
        "Render Postgres",
        "cloud",
        host_regexes=(
            r"^dpg-[a-z0-9]+(-[a-z])?$",
            r"^dpg-[a-z0-9]+(-[a-z])?\.[a-z]+-postgres\.render\.com$",
        ),
        source="https://render.com/docs/postgresql-high-availability; status.render.com "
        "incident lvz7ycrpb5nx",
    ),
    Provider(
        "Fly.io Managed Postgres (MPG)",
        "cloud",
        host_suffixes=(".flympg.net",),
        host_regexes=(r"^(pgbouncer|direct)\.[a-z0-9]+\.flympg\.net$",),
        idle_timeout=300.0,
        keepalives_help=False,
        max_lifetime=600.0,
        source="superfly/docs@5c22c8c mpg/client-configuration.html.md",
    ),
    Provider(
        "Railway Postgres",
        "cloud",
        host_suffixes=(".proxy.rlwy.net", ".railway.internal"),
        source="railwayapp/docs@c2a634f content/docs/deployments/serverless.md, "
        "networking/tcp-proxy.md, databases/postgresql-pgbouncer.md",
    ),
    Provider(
        "Crunchy Bridge",
        "cloud",
        host_suffixes=(".db.postgresbridge.com",),
        source="https://docs.crunchybridge.com/how-to/pgbouncer",
    ),
    Provider(
        "Timescale / Tiger Cloud",
        "cloud",
        host_suffixes=(".tsdb.cloud.timescale.com",),
        gucs=("timescaledb.*",),
        keepalives_help=True,
        source="timescale/docs@4ffee56 mst/about-mst.md",
    ),
    Provider(
        "CockroachDB Cloud",
        "cloud",
        host_suffixes=(".cockroachlabs.cloud",),
        gucs=("crdb_version",),
        max_lifetime=1800.0,
        source="cockroachdb/docs src/current/v25.4/connection-pooling.md, "
        "cockroachcloud/production-checklist.md",
    ),
    Provider(
        "AWS Network Load Balancer, TCP listener",
        "middlebox",
        host_suffixes=(".elb.amazonaws.com",),
        host_regexes=(r"\.elb\.[a-z0-9-]+\.amazonaws\.com$",),
        idle_timeout=350.0,
        keepalives_help=True,
        source="https://aws.amazon.com/about-aws/whats-new/2024/09/"
        "aws-network-load-balancer-tcp-idle-timeout; botocore elbv2 ListenerAttribute; "
        "unanswered.io guide (RST)",
    ),
    Provider(
        "AWS Network Load Balancer, TLS listener",
        "middlebox",
        host_suffixes=(".elb.amazonaws.com",),
        idle_timeout=350.0,
        keepalives_help=True,
        source="Microsoft AWS-to-Azure guide quoting AWS",
    ),
    Provider(
        "AWS Gateway Load Balancer (firewall appliances)",
        "middlebox",
        idle_timeout=350.0,
        keepalives_help=True,
        source="AWS networking blog 'configurable TCP idle timeout for Gateway Load Balancer'; "
        "docs update-idle-timeout",
    ),
    Provider(
        "AWS NAT gateway",
        "middlebox",
        idle_timeout=350.0,
        keepalives_help=True,
        source="https://docs.aws.amazon.com/vpc/latest/userguide/"
        "nat-gateway-troubleshooting.html (awsdocs@a16ab76)",
    ),
    Provider(
        "AWS Network Firewall",
        "middlebox",
        idle_timeout=350.0,
        keepalives_help=True,
        source="https://docs.aws.amazon.com/network-firewall/latest/APIReference/"
        "API_FlowTimeouts.html",
    ),
    Provider(
        "EC2 security-group connection tracking",
        "middlebox",
        idle_timeout=432000.0,
        keepalives_help=True,
        source="https://docs.aws.amazon.com/AWSEC2/latest/APIReference/"
        "API_ConnectionTrackingSpecificationResponse.html; older botocore still says "
        "432000",
    ),
    Provider(
        "AWS Transit Gateway / PrivateLink endpoint",
        "middlebox",
        host_suffixes=(".vpce.amazonaws.com",),
        idle_timeout=350.0,
        keepalives_help=True,
        source="unsourced",
    ),
    Provider(
        "Azure Load Balancer",
        "middlebox",
        idle_timeout=240.0,
        keepalives_help=True,
        source="https://learn.microsoft.com/azure/load-balancer/load-balancer-tcp-reset, "
        "load-balancer-tcp-idle-timeout",
    ),
    Provider(
        "Azure NAT Gateway",
        "middlebox",
        idle_timeout=240.0,
        keepalives_help=True,
        source="MicrosoftDocs/azure-docs articles/nat-gateway/nat-gateway-resource.md",
    ),
    Provider(
        "Azure Firewall",
        "middlebox",
        idle_timeout=240.0,
        keepalives_help=True,
        source="Azure Firewall FAQ",
    ),
    Provider(
        "Azure Private Link service",
        "middlebox",
        host_regexes=(r"\.privatelink\.postgres\.database\.azure\.com$",),
        idle_timeout=300.0,
        keepalives_help=True,
        source="MicrosoftDocs/azure-docs#95168, #94724",
    ),
    Provider(
        "GCP VPC firewall connection tracking",
        "middlebox",
        idle_timeout=600.0,
        keepalives_help=True,
        source="https://cloud.google.com/vpc/docs/firewalls; kubernetes/kubernetes#32457; "
        "cloudfoundry/routing-release#116",
    ),
    Provider(
        "GCP Cloud NAT",
        "middlebox",
        idle_timeout=1200.0,
        keepalives_help=True,
        source="https://cloud.google.com/nat/docs/overview#specs-timeouts",
    ),
    Provider(
        "GCP Private Service Connect NAT",
        "middlebox",
        host_suffixes=(".psc.goog",),
        idle_timeout=1200.0,
        keepalives_help=True,
        source="Google PSC docs",
    ),
    Provider(
        "Kubernetes kube-proxy, IPVS mode",
        "middlebox",
        idle_timeout=900.0,
        keepalives_help=True,
        source="kubernetes/kubernetes#84041, #85517; cloudnativelabs/kube-router#521, #911 "
        "(PostgreSQL); kubermatic/kubelb#539",
    ),
    Provider(
        "Kubernetes kube-proxy, iptables mode",
        "middlebox",
        idle_timeout=86400.0,
        keepalives_help=True,
        source="kube-proxy config dumps; kubernetes/kubernetes#71358",
    ),
    Provider(
        "Cilium (kube-proxy replacement)",
        "middlebox",
        idle_timeout=8000.0,
        keepalives_help=True,
        source="Cilium options",
    ),
    Provider(
        "Docker Swarm VIP (IPVS)",
        "middlebox",
        idle_timeout=900.0,
        keepalives_help=True,
        source="docker-library/postgres#538, #1110; moby/moby#31208, #37466, #37822; "
        "docker/docs#5519; easzlab/kubeasz#688 (sysctl inheritance)",
    ),
    Provider(
        "Linux nf_conntrack / iptables NAT",
        "middlebox",
        idle_timeout=432000.0,
        keepalives_help=True,
        source="kernel nf_conntrack-sysctl.txt; sysctl measured = 432000",
    ),
    Provider(
        "Cisco ASA / Firepower Threat Defense",
        "middlebox",
        idle_timeout=3600.0,
        keepalives_help=True,
        source="https://docs.defenseorchestrator.com/cdfmc/t_configure_global_timeouts_fptd.html",
    ),
    Provider(
        "Palo Alto PAN-OS",
        "middlebox",
        idle_timeout=3600.0,
        keepalives_help=True,
        source="PAN-OS session timeouts page",
    ),
    Provider(
        "FortiGate",
        "middlebox",
        idle_timeout=3600.0,
        keepalives_help=True,
        source="FortiOS manual, config system session-ttl",
    ),
    Provider(
        "WireGuard / Tailscale",
        "middlebox",
        host_regexes=(r"\.ts\.net$",),
        keepalives_help=True,
        source="https://www.wireguard.com/quickstart/; tailscale/tailscale@de9ec7e "
        "wgengine/netstack/netstack.go",
    ),
)
