"""Django's way: a transaction around each test."""
from django.test import TestCase

from shop.models import Customer, Order, OutOfStock, Product, Stock


class OrderTests:
    product = ""

    def setUp(self):
        self.customer = Customer.objects.get()
        self.item = Product.objects.get(name=self.product)

    def order(self, amount):
        order = Order.place(self.customer, {self.item: amount})
        self.assertEqual(Stock.objects.get(product=self.item).amount, 5 - amount)
        self.assertEqual(order.pay().total, self.item.price * amount)

    def test_one(self):
        self.order(1)

    def test_two(self):
        self.order(2)

    def test_five(self):
        self.order(5)

    def test_too_many(self):
        with self.assertRaises(OutOfStock):
            self.order(6)
        self.assertEqual(Order.objects.count(), 0)


class KettleTests(OrderTests, TestCase):
    product = "kettle"


class TeapotTests(OrderTests, TestCase):
    product = "teapot"


class RakeTests(OrderTests, TestCase):
    product = "rake"
