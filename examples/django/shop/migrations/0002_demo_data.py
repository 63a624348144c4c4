from django.db import migrations


def add(apps, schema_editor):
    supplier = apps.get_model("shop", "Supplier").objects.create(name="Mill & Sons")
    warehouse = apps.get_model("shop", "Warehouse").objects.create(city="Leeds")
    user = apps.get_model("auth", "User").objects.create(username="ada")
    apps.get_model("shop", "Customer").objects.create(user=user)
    for name, price in [("kettle", 30), ("teapot", 25.5), ("rake", 12)]:
        product = apps.get_model("shop", "Product").objects.create(supplier=supplier, name=name, price=price)
        apps.get_model("shop", "Stock").objects.create(warehouse=warehouse, product=product, amount=5)


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial"), ("auth", "0012_alter_user_first_name_max_length")]
    operations = [migrations.RunPython(add)]
