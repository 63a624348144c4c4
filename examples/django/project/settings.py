"""Nothing in here is about testdb: Django's own CREATE DATABASE is served by it."""
import os
from urllib.parse import urlsplit

SECRET_KEY = "not a secret"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "shop"]

url = urlsplit(os.environ.get("ADMIN_URL", "postgresql://postgres:postgres@localhost:5435/postgres"))
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": url.hostname,
        "PORT": url.port,
        "USER": url.username,
        "PASSWORD": url.password,
        "NAME": "shop",
    }
}
