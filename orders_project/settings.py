"""The settings, read from the environment. `.env.example` describes each variable."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from common.money import EXPONENTS

from . import production
from .database_limits import Limits
from .environment import Environment
from .observability import logs, shared_counts

BASE_DIR = Path(__file__).resolve().parent.parent
env = Environment(env_file=BASE_DIR / ".env")

DEBUG = env.debug
EMBEDDED = env.embedded
SECRET_KEY, *SECRET_KEY_FALLBACKS = env.secrets("SECRET_KEY", development="dev-secret-key", min_length=50) or [""]
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
PUBLIC_URL = env.url("PUBLIC_URL", schemes=("https", "http"), default="http://127.0.0.1:8000" if env.relaxed else None)
WEBHOOKS_URL = env.url("WEBHOOKS_URL", schemes=("http", "https"), default=PUBLIC_URL)  # used by the fake gateway
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]

# Behind a gateway that terminates TLS and sets X-Forwarded-Proto.
HTTPS = PUBLIC_URL.startswith("https://")
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^health", r"^metrics/?$"]
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_AGE = env.whole("SESSION_SECONDS", default=8 * 3600, min_value=300, max_value=14 * 86_400)
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"

# Services and their databases. A process needs only the credentials of the services that it serves, with one exception:
# where orders are placed, over HTTP or gRPC, stock is held in the database of processing, which may be given too.
SERVICES = ("orders", "payments", "processing")
SERVICES_HERE = env.services("SERVICES", of=SERVICES)
BACK_OFFICE = env.flag("BACK_OFFICE", default=SERVICES_HERE == SERVICES)
if BACK_OFFICE and SERVICES_HERE != SERVICES:
    env.problems.append("BACK_OFFICE needs all services: do not set SERVICES.")

DATABASES: dict[str, dict[str, Any]] = {"default": {}}
if BACK_OFFICE:
    DATABASES["default"] = env.database("DATABASE_URL", database="default")
for service in SERVICES:
    if service in SERVICES_HERE or env.text(f"DATABASE_URL_{service.upper()}"):
        DATABASES[service] = env.database(f"DATABASE_URL_{service.upper()}", database=service)
DATABASES_HERE = tuple(alias for alias, database in DATABASES.items() if database)
# Orders only shows what payments says: while its database is not available, the rest goes on.
DATABASES_NEEDED = tuple(alias for alias in DATABASES_HERE if alias != "payments" or alias in SERVICES_HERE)
# Those of the other region, as its databases are asked whether they are written to: see manage.py region.
OTHER_REGION_DATABASE_URLS = env.addresses("OTHER_REGION_DATABASE_URLS")
DATABASE_POOL = env.whole("DATABASE_POOL", default=0, max_value=100)  # for threaded processes; Celery's have none
CONNECTION_AGE = 60  # seconds for which a process without a pool keeps a connection
# Note [A new connection costs others]: its session begins with empty caches, which takes 16 ms of a processor. So the
# children of a worker, which begin together, keep theirs for longer and end them at different times. A lost one costs
# nobody an error there, as the message waits; a request would get a 503.
CHILD_CONNECTION_AGE = 600  # seconds, at most
PREPARED_AFTER = 5  # times that a session has run a statement: see outbox/store.py
DATABASE_LIMITS = Limits(
    lock=env.seconds("DATABASE_LOCK_TIMEOUT", default=5),
    statement=env.seconds("DATABASE_STATEMENT_TIMEOUT", default=30),
    idle=env.seconds("DATABASE_IDLE_TIMEOUT", default=10),
    host=env.seconds("DATABASE_HOST_TIMEOUT", default=20),
)
# How long a migration that makes others wait may wait for a lock, and how long any of them tries: see migrate_all.
MIGRATION_LOCK_TIMEOUT = env.seconds("MIGRATION_LOCK_TIMEOUT", default=1)
MIGRATION_WAIT_SECONDS = env.seconds("MIGRATION_WAIT_SECONDS", default=600)
# Standbys of these databases, which lists, exports, reports and the audit are read from: see docs/reads.md.
STANDBYS: dict[str, str] = {}
for service in SERVICES_HERE:
    _name = f"DATABASE_URL_{service.upper()}_READ"
    if env.text(_name) and (_standby := env.database(_name, database=service)):
        STANDBYS[service] = f"{service}_read"
        DATABASES[STANDBYS[service]] = _standby
        _standby.pop("DIRECT", None)  # nothing that is read from it outlives a transaction
READ_LAG_MAX_SECONDS = env.seconds("READ_LAG_MAX_SECONDS", default=5)
for database in filter(None, DATABASES.values()):
    for each in (database, *filter(None, [database.get("DIRECT")])):
        given = each.get("OPTIONS", {})
        each["OPTIONS"] = given | DATABASE_LIMITS.of_client(given.get("options", ""))
    if "DIRECT" in database:  # PgBouncer in transaction mode: see outbox/sessions.py
        del database["OPTIONS"]["options"]  # which it takes not; the defaults of the database hold
        database["DISABLE_SERVER_SIDE_CURSORS"] = True
    else:
        database["OPTIONS"]["prepare_threshold"] = PREPARED_AFTER
    if DATABASE_POOL:
        database["OPTIONS"]["pool"] = {"min_size": 0, "max_size": DATABASE_POOL, "timeout": 10, "max_idle": 10}
    else:
        database["CONN_MAX_AGE"] = CONNECTION_AGE
        database["CONN_HEALTH_CHECKS"] = False
for alias, standby in ((alias, DATABASES[standby]) for alias, standby in STANDBYS.items()):
    standby["OPTIONS"]["options"] += " -c default_transaction_read_only=on"  # whatever it is that the URL names
    standby["OPTIONS"]["connect_timeout"] = 2  # the primary is there as well
    standby["OPTIONS"]["prepare_threshold"] = None  # what is read from it is no hot path
    if DATABASE_POOL:
        standby["OPTIONS"]["pool"] |= {"timeout": 2}
    standby["TEST"] = {"MIRROR": alias}
DATABASE_ROUTERS = ["orders_project.routers.Services"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# The broker.
AMQP_URL = env.urls(
    "AMQP_URL", schemes=("amqp", "amqps"), default="amqp://guest:guest@localhost:5672//" if DEBUG else None
)
AMQP_HEARTBEAT = env.whole("AMQP_HEARTBEAT", default=5, min_value=2, max_value=60)
WAIT_SECONDS = env.seconds("WAIT_SECONDS", default=120)  # how long `manage.py wait` does
BROKER_TOPOLOGY = "orders_project.celery.declare_topology"
OUTBOX_SERVICES = SERVICES_HERE
OUTBOX_EXCHANGE = "messages"
# How many queues each service has, and which of them a worker of it consumes: by their numbers, by default all.
ORDERS_QUEUES = env.whole("ORDERS_QUEUES", default=1, min_value=1, max_value=64)
WORKER_QUEUES = env.numbers("WORKER_QUEUES", below=ORDERS_QUEUES)
OUTBOX_SUBJECT_FIELD = "order_id"
OUTBOX_SEQUENCE_FIELD = "version"
EVENTS_STREAM = "events.stream"
# How long events are kept for late subscribers: what exceeds one of the two goes, a whole segment at a time.
EVENTS_STREAM_MAX_AGE = env.age("EVENTS_STREAM_MAX_AGE", default="30D")
EVENTS_STREAM_MAX_BYTES = env.whole(
    "EVENTS_STREAM_MAX_BYTES", default=2_000_000_000, min_value=1_000_000, max_value=2**50
)
EVENTS_STREAM_SEGMENT_BYTES = env.whole("EVENTS_STREAM_SEGMENT_BYTES", default=20_000_000, min_value=10_000)
# What the deployment gives to the users of the broker and to the roles of the databases: see `manage.py grant`.
RABBITMQ_MANAGEMENT_URL = env.text("RABBITMQ_MANAGEMENT_URL")
BROKER_PASSWORDS = env.pairs("BROKER_PASSWORDS")
DATABASE_PASSWORDS = env.pairs("DATABASE_PASSWORDS")
REDIS_URL = env.url("REDIS_URL", schemes=("redis", "rediss"), default="redis://unset") if env.text("REDIS_URL") else ""

# Whether processes of the release before run, or may be started again: then nothing is written that they can't read.
UPGRADING = env.flag("UPGRADING", default=False)
OUTBOX_WITHHOLDS = UPGRADING
OUTBOX_QUEUES = 1 if UPGRADING else ORDERS_QUEUES  # workers of the release before consume one

# How long outboxes and inboxes keep their rows. A message older than the horizon is never handled without a check, as
# its inbox row may be gone.
OUTBOX_RETENTION = timedelta(days=env.whole("OUTBOX_RETENTION_DAYS", default=7, min_value=1, max_value=3650))
INBOX_RETENTION = timedelta(days=env.whole("INBOX_RETENTION_DAYS", default=14, min_value=2, max_value=3650))
IDEMPOTENCY_RETENTION = timedelta(
    hours=env.whole("IDEMPOTENCY_RETENTION_HOURS", default=48, min_value=24, max_value=3650 * 24)
)
UNKNOWN_MESSAGE_WAIT = timedelta(seconds=env.seconds("UNKNOWN_MESSAGE_WAIT_SECONDS", default=3600))
IDEMPOTENCY_MAX_KEYS = env.whole("IDEMPOTENCY_MAX_KEYS", default=1_000_000)
DEDUPE_HORIZON = INBOX_RETENTION - timedelta(days=1)
# When the history of an order that has finished is archived; zero: never. Nothing is under way about it by then.
ARCHIVE_ORDERS_AFTER = timedelta(days=env.whole("ARCHIVE_ORDERS_AFTER_DAYS", default=0, max_value=36500))
if ARCHIVE_ORDERS_AFTER and ARCHIVE_ORDERS_AFTER < 2 * INBOX_RETENTION:
    least = (2 * INBOX_RETENTION).days
    env.problems.append(f"ARCHIVE_ORDERS_AFTER_DAYS: 0, or at least {least}, which is twice INBOX_RETENTION_DAYS.")

# Business.
KNOWN_CURRENCIES = tuple(EXPONENTS)
_also = env.several("CURRENCIES", of=KNOWN_CURRENCIES)
CURRENCY = env.choice("CURRENCY", default=_also[0] if _also else "USD", of=KNOWN_CURRENCIES)
CURRENCIES = tuple(dict.fromkeys((CURRENCY, *_also)))  # the default first
ORDERS_ALLOW_FREE_LINES = env.flag("ORDERS_ALLOW_FREE_LINES", default=EMBEDDED)
PAYMENT_TIMEOUT = timedelta(seconds=env.seconds("PAYMENT_TIMEOUT_SECONDS", default=900))
CAPTURE_AFTER_PROCESSING = env.flag("CAPTURE_AFTER_PROCESSING", default=False)
AUTHORIZATION_TTL = timedelta(
    hours=env.whole("AUTHORIZATION_TTL_HOURS", default=6 * 24, min_value=1, max_value=3650 * 24)
)
PROCESSING_TIMEOUT = timedelta(seconds=env.seconds("PROCESSING_TIMEOUT_SECONDS", default=300))
SHED_ABOVE = env.whole("SHED_ABOVE", default=30, max_value=3600)  # seconds; 0: no order is refused for being late
HOLD_TTL = timedelta(seconds=env.seconds("HOLD_TTL_SECONDS", default=1200))
REFUND_APPROVAL_ABOVE = env.whole("REFUND_APPROVAL_ABOVE", default=1000)  # in whole units of whichever currency
REFUND_APPROVAL_LIMITS = env.whole_numbers("REFUND_APPROVAL_LIMITS", of=KNOWN_CURRENCIES)
PROCESSOR = env.text("PROCESSOR", default="processing.processors.random_success")
PROCESSING_SUCCESS_RATE = env.fraction("PROCESSING_SUCCESS_RATE", default=0.9)

# Totals and products with an outcome of their own: see common/trial_outcomes.py.
TEST_MODE = env.flag("TEST_MODE", default=EMBEDDED)

# Gateways.
TAKES_PAYMENTS = "payments" in SERVICES_HERE
PAYMENT_GATEWAY = env.choice("PAYMENT_GATEWAY", default="fake" if env.relaxed else "", of=("fake", "stripe"))
FAKE_GATEWAY_ACKNOWLEDGED = env.flag("FAKE_GATEWAY_ACKNOWLEDGED", default=False)
INSTALLATION = env.name("INSTALLATION")
PAYMENT_WEBHOOK_SECRETS = env.secrets("PAYMENT_WEBHOOK_SECRET", development="dev-webhook-secret", needed=TAKES_PAYMENTS)
FAKE_GATEWAY_URL = env.url("FAKE_GATEWAY_URL", schemes=("http", "https"), default="http://127.0.0.1:8900")
FAKE_GATEWAY_PORT = env.whole("FAKE_GATEWAY_PORT", default=8900, max_value=65535)
FAKE_PAYMENT_SUCCESS_RATE = env.fraction("FAKE_PAYMENT_SUCCESS_RATE", default=0.8)
STRIPE_API_URL = env.url("STRIPE_API_URL", schemes=("https", "http"), default="https://api.stripe.com")
USES_STRIPE = TAKES_PAYMENTS and PAYMENT_GATEWAY == "stripe"
STRIPE_API_KEY = next(iter(env.secrets("STRIPE_API_KEY", needed=USES_STRIPE)), "")
STRIPE_WEBHOOK_SECRETS = env.secrets("STRIPE_WEBHOOK_SECRET", needed=USES_STRIPE)
if USES_STRIPE and not INSTALLATION:
    env.problems.append("INSTALLATION is missing: with stripe, a name that no other user of the account has.")
GATEWAY_TIMEOUT = (
    env.seconds("GATEWAY_CONNECT_TIMEOUT", default=3),
    env.seconds("GATEWAY_READ_TIMEOUT", default=10),
)
# What a gateway has booked is compared with the ledger every night, for so many days; what is younger is in flight.
RECONCILE_HOUR = env.whole("RECONCILE_HOUR", default=2, max_value=23)  # UTC
RECONCILE_DAYS = env.whole("RECONCILE_DAYS", default=3, min_value=1, max_value=366)
RECONCILE_GRACE = timedelta(seconds=env.seconds("RECONCILE_GRACE_SECONDS", default=3600))
WEBHOOK_MAX_ENDPOINTS = env.whole("WEBHOOK_MAX_ENDPOINTS", default=20, min_value=1)
WEBHOOKS_ALLOW_LOOPBACK = env.flag("WEBHOOKS_ALLOW_LOOPBACK", default=EMBEDDED)
WEBHOOKS_ALLOW_LOOPBACK_ACKNOWLEDGED = env.flag("WEBHOOKS_ALLOW_LOOPBACK_ACKNOWLEDGED", default=False)

# The API.
JWT_KEY_FILES = env.words("JWT_KEY_FILES", default=[])
OAUTH_TOKEN_SECONDS = env.whole("OAUTH_TOKEN_SECONDS", default=900, min_value=60, max_value=86_400)
API_AUTH = env.choice("API_AUTH", default="open" if DEBUG else "required", of=("required", "open"))
API_AUTH_OPEN_ACKNOWLEDGED = env.flag("API_AUTH_OPEN_ACKNOWLEDGED", default=False)
ADMIN_SECRETS = env.secrets("ADMIN_SECRET", development="dev-admin-secret", needed="processing" in SERVICES_HERE)
ENCRYPTION_KEYS = env.secrets(
    "ENCRYPTION_KEY", development="dev-encryption-key", min_length=32, needed="orders" in SERVICES_HERE
)
# Orders a minute for one email, one client and one address (0: no limit).
RATE_LIMIT_ORDERS_PER_MINUTE = env.whole("RATE_LIMIT_ORDERS_PER_MINUTE", default=5)
RATE_LIMIT_CLIENT_PER_MINUTE = env.whole("RATE_LIMIT_CLIENT_PER_MINUTE", default=0 if EMBEDDED else 3000)
RATE_LIMIT_ADDRESS_PER_MINUTE = env.whole("RATE_LIMIT_ADDRESS_PER_MINUTE", default=0 if EMBEDDED else 1200)
# Attempts to log in or to get a token a minute from one address; each of them costs most of a second of a processor.
RATE_LIMIT_LOGINS_PER_MINUTE = env.whole("RATE_LIMIT_LOGINS_PER_MINUTE", default=20)
RATE_LIMIT_FILE = env.text("RATE_LIMIT_FILE")
GRPC_PORT = env.whole("GRPC_PORT", default=50051, max_value=65535)
GRPC_HOST = env.text("GRPC_HOST", default="127.0.0.1")
GRPC_THREADS = env.whole("GRPC_THREADS", default=8, min_value=1, max_value=200)
# With TLS: the server's certificate and key, and what its callers trust.
GRPC_TLS_CERT = env.text("GRPC_TLS_CERT")
GRPC_TLS_KEY = env.text("GRPC_TLS_KEY")
GRPC_TLS_CA = env.text("GRPC_TLS_CA")
if bool(GRPC_TLS_CERT) != bool(GRPC_TLS_KEY):
    env.problems.append("GRPC_TLS_CERT and GRPC_TLS_KEY belong together: set both, or neither.")
GRPC_MAX_CONNECTIONS = env.whole("GRPC_MAX_CONNECTIONS", default=256, min_value=1)
GRPC_REFLECTION = env.flag("GRPC_REFLECTION", default=env.relaxed)
ORDER_SERVICE_GRPC = env.text("ORDER_SERVICE_GRPC", default=f"127.0.0.1:{GRPC_PORT}")
TRUSTED_PROXIES = env.networks("TRUSTED_PROXIES", default=["127.0.0.0/8", "::1/128"])
DATA_UPLOAD_MAX_MEMORY_SIZE = 256 * 1024

INSTALLED_APPS = [
    "orders_project.backoffice.apps.BackOfficeConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_filters",
    "django_prometheus",
    "oauth2_provider",
    "django_otp",
    "django_otp.plugins.otp_totp",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "outbox",
    "processing",
    "payments",
    "orders",
    "orders_project",
]
MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "orders_project.http.middleware.Correlation",
    "orders_project.http.middleware.RequestLog",
    "orders_project.http.errors.ErrorBodies",
    "orders_project.http.middleware.BodyLimit",
    "orders_project.http.middleware.SameOrigin",
    "orders_project.http.deprecation.Deprecations",
    "django.middleware.security.SecurityMiddleware",
    "orders_project.http.middleware.ContentSecurity",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "orders_project.backoffice.middleware.ViewersLanguage",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "orders_project.http.middleware.OwnWrites",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "orders_project.backoffice.middleware.ViewersZone",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]
PROMETHEUS_EXPORT_MIGRATIONS = False
PROMETHEUS_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, float("inf"))
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"  # in no cookie
ROOT_URLCONF = "orders_project.urls"
CSRF_FAILURE_VIEW = "orders_project.http.errors.csrf_failure"
APPEND_SLASH = False  # paths work with and without one, see urls.py
WSGI_APPLICATION = "orders_project.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "orders_project" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
# A code of an authenticator app at login: offered to everybody, and demanded of managers where it is required.
SECOND_FACTOR = env.choice(
    "SECOND_FACTOR", default="optional" if env.relaxed else "required", of=("optional", "required")
)
OTP_TOTP_ISSUER = "Orders"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

OAUTH2_PROVIDER_APPLICATION_MODEL = "orders_project.Client"
OAUTH2_PROVIDER = {
    "ACCESS_TOKEN_EXPIRE_SECONDS": OAUTH_TOKEN_SECONDS,
    "ACCESS_TOKEN_GENERATOR": "orders_project.auth.oauth.signed_token",
    "OAUTH2_VALIDATOR_CLASS": "orders_project.auth.oauth.Validator",
    "SCOPES_BACKEND_CLASS": "orders_project.auth.oauth.ClientScopes",
    "ALLOWED_REDIRECT_URI_SCHEMES": ["https"],
    "REFRESH_TOKEN_REUSE_PROTECTION": True,
    **{
        f"COMPLIANT_BCP_RFC9700_{rule}": True
        for rule in (
            "IMPLICIT_GRANT", "PASSWORD_GRANT", "PKCE_METHOD", "ACCESS_TOKEN_TRANSPORT", "AUTHZ_RESPONSE_ISS",
            "TOKEN_STORAGE", "REFRESH_TOKEN", "REDIRECT_URI_SCHEME", "REDIRECT_URI_MATCHING", "PKCE_REQUIRED",
        )
    },
}  # fmt: skip

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "orders_project.auth.authentication.Bearer",
        "orders_project.auth.authentication.Staff",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["orders_project.auth.authentication.HasScope"],
    "DEFAULT_PARSER_CLASSES": ["orders_project.http.parsers.JSONParser"],
    "EXCEPTION_HANDLER": "orders_project.http.errors.handle",
    "DEFAULT_RENDERER_CLASSES": [
        "rest_framework.renderers.JSONRenderer",
        "orders_project.http.renderers.ApiPage",
    ],
    "DEFAULT_SCHEMA_CLASS": "orders_project.http.schema.Schema",
    "UNAUTHENTICATED_USER": "orders_project.auth.authentication.unauthenticated",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Orders",
    "VERSION": "1.1.0",  # in every answer too
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "AUTHENTICATION_WHITELIST": ["orders_project.auth.authentication.Bearer"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "validatorUrl": None},
    "REDOC_DIST": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "OrderStatus": "orders.models.Status",
        "PaymentMethod": "orders.models.Order.Method",
        "EntryKind": "payments.models.Entry.Kind",
        "LineType": "orders.models.OrderLine.Kind",
    },
    "PREPROCESSING_HOOKS": ["orders_project.http.schema.leave_out_duplicates"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "orders_project.http.schema.complete",
        "orders_project.contracts.facts.describe_webhooks",
    ],
}

ADMIN_KIT = {  # see common/admin/conf.py
    "PERMISSIONS": "orders_project",
    "SUBJECT_PAGE": "admin:orders_order_change",
    "PERFORMED_ACTIONS": "orders_project.PerformedAction",
    "REQUEST_APPROVAL": "orders_project.backoffice.approvals.request",
    "SAVED_FILTERS": "orders_project.SavedFilter",
    "BULK_RUNS": "orders_project.BulkRun",
}

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("ru", "Русский")]
LOCALE_PATHS = [BASE_DIR / "orders_project" / "locale"]
TIME_ZONE = "UTC"
USE_TZ = True
FORMAT_MODULE_PATH = ["orders_project.formats"]

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
WHITENOISE_USE_FINDERS = True

LOG_LEVEL = env.choice("LOG_LEVEL", default="INFO", of=("DEBUG", "INFO", "WARNING", "ERROR"))
LOG_FORMAT = env.choice("LOG_FORMAT", default="auto", of=("auto", "json", "console"))
LOGGING: dict[str, Any] = logs.configuration(level=LOG_LEVEL, form=LOG_FORMAT)

ON_START = "orders_project.observability.process.begin"  # called by processes other than the web and Celery
HEARTBEAT_FILE = env.text("HEARTBEAT_FILE")  # touched by a running worker, relay or beat, for `manage.py health`
# Where a process without a web server serves its metrics; 0: nowhere.
METRICS_HOST = env.text("METRICS_HOST", default="127.0.0.1")
METRICS_PORT = env.whole("METRICS_PORT", default=0, max_value=65535)
if METRICS_PORT and not env.text("PROMETHEUS_MULTIPROC_DIR"):
    shared_counts.share()

if not env.relaxed:
    env.problems += production.problems(globals())
env.finish()
