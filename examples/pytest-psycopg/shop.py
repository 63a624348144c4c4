"""The application: a shop. It commits for itself, as applications do."""


class OutOfStock(Exception):
    pass


def place_order(db, customer, items):
    """Orders {product: amount} for a customer, and returns the order's number."""
    with db.transaction():
        [order] = db.execute("INSERT INTO purchase (customer_id) VALUES (%s) RETURNING id", [customer]).fetchone()
        for product, amount in sorted(items.items()):
            taken = db.execute(
                "UPDATE stock SET amount = amount - %s WHERE product_id = %s AND amount >= %s", [amount, product, amount])
            if taken.rowcount == 0:
                raise OutOfStock(product)
            db.execute("INSERT INTO purchase_item VALUES (%s, %s, %s)", [order, product, amount])
    return order


def in_stock(db, product):
    return db.execute("SELECT sum(amount) FROM stock WHERE product_id = %s", [product]).fetchone()[0]


def orders_of(db, customer):
    return [row[0] for row in db.execute("SELECT id FROM purchase WHERE customer_id = %s ORDER BY id", [customer])]


def pay(db, order):
    """Pays for an order, and returns the total."""
    with db.transaction():
        return db.execute(
            """INSERT INTO payment (purchase_id, total)
               SELECT i.purchase_id, sum(p.price * i.amount)
               FROM purchase_item i JOIN product p ON p.id = i.product_id
               WHERE i.purchase_id = %s GROUP BY 1 RETURNING total""", [order]).fetchone()[0]


def revenue(db):
    return db.execute("SELECT coalesce(sum(total), 0) FROM payment").fetchone()[0]
