"""Alembic's: migrates the connection that it is given, or the database that DATABASE_URL names."""
import os

from alembic import context
from sqlalchemy import create_engine

from shop.models import Base


def migrate(connection):
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()


if "connection" in context.config.attributes:
    migrate(context.config.attributes["connection"])
else:
    with create_engine(os.environ["DATABASE_URL"]).connect() as connection:
        migrate(connection)
