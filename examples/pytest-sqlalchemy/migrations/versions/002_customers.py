"""customers"""
from alembic import op
import sqlalchemy as sa

revision = "002"
down_revision = "001"


def upgrade():
    op.create_table(
        "customer",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("email", sa.Text, nullable=False, unique=True))
    op.create_table(
        "address",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("customer_id", sa.BigInteger, sa.ForeignKey("customer.id"), nullable=False),
        sa.Column("street", sa.Text, nullable=False),
        sa.Column("city", sa.Text, nullable=False))
    op.create_table(
        "review",
        sa.Column("customer_id", sa.BigInteger, sa.ForeignKey("customer.id"), primary_key=True),
        sa.Column("product_id", sa.BigInteger, sa.ForeignKey("product.id"), primary_key=True),
        sa.Column("stars", sa.SmallInteger, sa.CheckConstraint("stars BETWEEN 1 AND 5"), nullable=False))
