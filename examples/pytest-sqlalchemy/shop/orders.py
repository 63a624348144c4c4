"""The application: a shop. It commits for itself, as applications do."""
from sqlalchemy import func, select, update

from .models import Payment, Purchase, PurchaseItem, Stock


class OutOfStock(Exception):
    pass


def place_order(session, customer, items):
    """Orders {product: amount} for a customer, and returns the order's number."""
    with session.begin():
        order = Purchase(customer_id=customer)
        for product, amount in sorted(items.items()):
            taken = session.execute(
                update(Stock).where(Stock.product_id == product, Stock.amount >= amount).values(amount=Stock.amount - amount))
            if taken.rowcount == 0:
                raise OutOfStock(product)
            order.items.append(PurchaseItem(product_id=product, amount=amount))
        session.add(order)
        session.flush()
        return order.id


def in_stock(session, product):
    with session.begin():
        return session.scalar(select(func.sum(Stock.amount)).where(Stock.product_id == product))


def orders_of(session, customer):
    with session.begin():
        return list(session.scalars(select(Purchase.id).where(Purchase.customer_id == customer).order_by(Purchase.id)))


def pay(session, order):
    """Pays for an order, and returns the total."""
    with session.begin():
        items = session.get(Purchase, order).items
        payment = Payment(purchase_id=order, total=sum(item.amount * item.product.price for item in items))
        session.add(payment)
        return payment.total


def revenue(session):
    with session.begin():
        return session.scalar(select(func.coalesce(func.sum(Payment.total), 0)))
