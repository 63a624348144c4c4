package Shop;

# The application: a shop. It commits for itself, as applications do.

use strict;
use warnings;

# Orders products, with the amount of each, for a customer, and returns the order's number.
sub place_order {
	my ($db, $customer, %amounts) = @_;
	$db->begin_work;
	my $order = eval {
		my ($id) = $db->selectrow_array('INSERT INTO purchase (customer_id) VALUES (?) RETURNING id', undef, $customer);
		foreach my $product (sort keys %amounts) {
			my $taken = $db->do('UPDATE stock SET amount = amount - ? WHERE product_id = ? AND amount >= ?', undef,
				$amounts{$product}, $product, $amounts{$product});
			die "out of stock: $product\n" if $taken == 0;
			$db->do('INSERT INTO purchase_item VALUES (?, ?, ?)', undef, $id, $product, $amounts{$product});
		}
		$db->commit;
		$id;
	};
	if (!defined $order) {
		my $error = $@;
		$db->rollback;
		die $error;
	}
	return $order;
}

sub in_stock {
	my ($db, $product) = @_;
	return $db->selectrow_array('SELECT sum(amount) FROM stock WHERE product_id = ?', undef, $product);
}

sub orders_of {
	my ($db, $customer) = @_;
	return $db->selectcol_arrayref('SELECT id FROM purchase WHERE customer_id = ? ORDER BY id', undef, $customer);
}

# Pays for an order, and returns the total.
sub pay {
	my ($db, $order) = @_;
	return $db->selectrow_array(
		'INSERT INTO payment (purchase_id, total)
		 SELECT i.purchase_id, sum(p.price * i.amount)
		 FROM purchase_item i JOIN product p ON p.id = i.product_id
		 WHERE i.purchase_id = ? GROUP BY 1 RETURNING total', undef, $order);
}

sub revenue {
	my ($db) = @_;
	return $db->selectrow_array('SELECT coalesce(sum(total), 0) FROM payment');
}

1;
