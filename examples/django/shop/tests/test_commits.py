"""Tests that commit, each in the worker's database as the migrations have left it."""
import threading

from django.db import connection, transaction

from shop.models import Customer, Order, OutOfStock, Product, Stock

from .testing import RewindTestCase


class CommitTests(RewindTestCase):
    def place(self, amount):
        return Order.place(Customer.objects.get(), {Product.objects.get(name="kettle"): amount})

    def test_first_order_is_number_1(self):
        self.assertEqual(self.place(1).pk, 1)

    def test_and_so_it_is_in_the_next_test(self):
        self.assertEqual(self.place(1).pk, 1)

    def test_on_commit(self):
        called = []
        with transaction.atomic():
            transaction.on_commit(lambda: called.append(True))
            self.place(1)
            self.assertEqual(called, [])
        self.assertEqual(called, [True])


class ThreadTests(RewindTestCase):
    def test_the_last_one_is_sold_once(self):
        Stock.objects.update(amount=1)
        sold = []

        def buy():
            try:
                sold.append(Order.place(Customer.objects.get(), {Product.objects.get(name="rake"): 1}))
            except OutOfStock:
                pass
            finally:
                connection.close()

        threads = [threading.Thread(target=buy) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(sold), 1)


class SchemaTests(RewindTestCase):
    def test_a_table_may_go(self):
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE shop_shipment")

    def test_data_of_the_migrations_is_there(self):
        self.assertEqual(Product.objects.count(), 3)

    def test_no_orders_at_first(self):
        self.assertEqual(Order.objects.count(), 0)

    def test_full_stock_at_first(self):
        self.assertEqual(set(Stock.objects.values_list("amount", flat=True)), {5})
