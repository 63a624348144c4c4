from django.conf import settings
from django.db import models, transaction
from django.db.models import F, Sum


class OutOfStock(Exception):
    pass


class Supplier(models.Model):
    name = models.TextField(unique=True)


class Category(models.Model):
    name = models.TextField(unique=True)


class Product(models.Model):
    supplier = models.ForeignKey(Supplier, models.PROTECT)
    categories = models.ManyToManyField(Category)
    name = models.TextField(unique=True)
    price = models.DecimalField(max_digits=10, decimal_places=2)


class Customer(models.Model):
    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE)


class Address(models.Model):
    customer = models.ForeignKey(Customer, models.CASCADE)
    street = models.TextField()
    city = models.TextField()


class Review(models.Model):
    customer = models.ForeignKey(Customer, models.CASCADE)
    product = models.ForeignKey(Product, models.CASCADE)
    stars = models.SmallIntegerField()


class Warehouse(models.Model):
    city = models.TextField(unique=True)


class Stock(models.Model):
    warehouse = models.ForeignKey(Warehouse, models.CASCADE)
    product = models.ForeignKey(Product, models.CASCADE)
    amount = models.IntegerField()


class Order(models.Model):
    customer = models.ForeignKey(Customer, models.PROTECT)
    ordered_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "purchase"

    @classmethod
    def place(cls, customer, items):
        """Orders {product: amount} for a customer."""
        with transaction.atomic():
            order = cls.objects.create(customer=customer)
            for product, amount in items.items():
                stock = Stock.objects.filter(product=product, amount__gte=amount)
                if stock.update(amount=F("amount") - amount) == 0:
                    raise OutOfStock(product.name)
                order.items.create(product=product, amount=amount)
        return order

    def pay(self):
        total = self.items.aggregate(total=Sum(F("amount") * F("product__price")))["total"]
        return Payment.objects.create(order=self, total=total)


class OrderItem(models.Model):
    order = models.ForeignKey(Order, models.CASCADE, related_name="items")
    product = models.ForeignKey(Product, models.PROTECT)
    amount = models.IntegerField()


class Payment(models.Model):
    order = models.ForeignKey(Order, models.CASCADE)
    total = models.DecimalField(max_digits=10, decimal_places=2)


class Shipment(models.Model):
    order = models.OneToOneField(Order, models.CASCADE)
    address = models.ForeignKey(Address, models.PROTECT)
    sent_at = models.DateTimeField(null=True)
