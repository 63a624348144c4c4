# One database for this file, rewound before each test.
use strict;
use warnings;
use lib 'lib', 't/lib';
use Shop;
use Test::More;
use TestDatabase;

my $db = worker_database;
my %price = (1 => 30, 2 => 25.5, 3 => 12);
foreach my $product (sort keys %price) {
	foreach my $amount (1 .. 5) {
		subtest "revenue of $amount of product $product" => sub {
			rewound($db);
			is(Shop::revenue($db), 0, 'nothing at first');
			Shop::pay($db, Shop::place_order($db, 1, $product => $amount));
			cmp_ok(Shop::revenue($db), '==', $price{$product} * $amount, 'revenue');
		};
	}
}

subtest 'a table may go' => sub {
	ok(rewound($db)->do('DROP TABLE shipment'), 'dropped');
};

subtest 'the table is back' => sub {
	is(rewound($db)->selectrow_array('SELECT count(*) FROM shipment'), 0, 'empty');
};

done_testing;
