"""orders"""
from alembic import op
import sqlalchemy as sa

revision = "003"
down_revision = "002"


def upgrade():
    op.create_table(
        "warehouse",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("city", sa.Text, nullable=False, unique=True))
    op.create_table(
        "stock",
        sa.Column("warehouse_id", sa.BigInteger, sa.ForeignKey("warehouse.id"), primary_key=True),
        sa.Column("product_id", sa.BigInteger, sa.ForeignKey("product.id"), primary_key=True),
        sa.Column("amount", sa.Integer, sa.CheckConstraint("amount >= 0"), nullable=False))
    op.create_table(
        "purchase",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("customer_id", sa.BigInteger, sa.ForeignKey("customer.id"), nullable=False),
        sa.Column("ordered_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()))
    op.create_index("purchase_customer", "purchase", ["customer_id", "ordered_at"])
    op.create_table(
        "purchase_item",
        sa.Column("purchase_id", sa.BigInteger, sa.ForeignKey("purchase.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("product_id", sa.BigInteger, sa.ForeignKey("product.id"), primary_key=True),
        sa.Column("amount", sa.Integer, sa.CheckConstraint("amount > 0"), nullable=False))
    op.create_table(
        "payment",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("purchase_id", sa.BigInteger, sa.ForeignKey("purchase.id", ondelete="CASCADE"), nullable=False),
        sa.Column("total", sa.Numeric(10, 2), nullable=False))
    op.create_table(
        "shipment",
        sa.Column("purchase_id", sa.BigInteger, sa.ForeignKey("purchase.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("address_id", sa.BigInteger, sa.ForeignKey("address.id"), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True)))
