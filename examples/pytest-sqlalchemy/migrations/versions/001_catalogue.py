"""catalogue"""
from alembic import op
import sqlalchemy as sa

revision = "001"
down_revision = None


def upgrade():
    op.create_table(
        "category",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True))
    op.create_table(
        "supplier",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True))
    op.create_table(
        "product",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("supplier_id", sa.BigInteger, sa.ForeignKey("supplier.id"), nullable=False),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("price", sa.Numeric(10, 2), sa.CheckConstraint("price >= 0"), nullable=False))
    op.create_table(
        "product_category",
        sa.Column("product_id", sa.BigInteger, sa.ForeignKey("product.id"), primary_key=True),
        sa.Column("category_id", sa.BigInteger, sa.ForeignKey("category.id"), primary_key=True))
    op.create_table(
        "price_change",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("product_id", sa.BigInteger, sa.ForeignKey("product.id"), nullable=False),
        sa.Column("price", sa.Numeric(10, 2), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()))
