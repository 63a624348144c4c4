"""The tables that the application reads and writes; the migrations have the others as well."""
from decimal import Decimal

from sqlalchemy import BigInteger, ForeignKey, Identity, Numeric
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "product"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    name: Mapped[str]
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))


class Stock(Base):
    __tablename__ = "stock"
    warehouse_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"), primary_key=True)
    amount: Mapped[int]


class Purchase(Base):
    __tablename__ = "purchase"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    customer_id: Mapped[int] = mapped_column(BigInteger)
    items: Mapped[list["PurchaseItem"]] = relationship()


class PurchaseItem(Base):
    __tablename__ = "purchase_item"
    purchase_id: Mapped[int] = mapped_column(ForeignKey("purchase.id"), primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"), primary_key=True)
    amount: Mapped[int]
    product: Mapped[Product] = relationship()


class Payment(Base):
    __tablename__ = "payment"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    purchase_id: Mapped[int] = mapped_column(ForeignKey("purchase.id"))
    total: Mapped[Decimal] = mapped_column(Numeric(10, 2))
