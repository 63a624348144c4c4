
# A library that was built with DEBUG=1 ends the server where a clone goes from one state to another that src/README does not
# draw, or by another function than it draws: mistakes that are planted are found. The drawing itself is compared with the
# code by t/000_meta.pl.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbTest;

plan skip_all => 'no library that was built with DEBUG=1' unless $ENV{TESTDB_DEBUG_CONFIG};
$ENV{TEMP_CONFIG} = $ENV{TESTDB_DEBUG_CONFIG};

for my $case (
	[ 'illegal-state', qr/PANIC:  database \d+ cannot go from state "(?!touched)\w+" to "touched" by \w+\(\)/ ],
	[ 'illegal-function', qr/PANIC:  database \d+ cannot go from state "\w+" to "\w+" by debug_planted\(\)/ ])
{
	my ($mistake, $message) = @$case;
	my $node = new_server($mistake =~ s/-/_/r, "restart_after_crash = off\ninclude_if_exists 'point.conf'\n");
	my $admin = connect_to($node, 'postgres');
	run($admin, 'CREATE DATABASE regression_template');
	run($admin, "SELECT testdb_drop(testdb_clone('regression_template'))");
	unlike(slurp_file($node->logfile), qr/PANIC/, "nothing is wrong without $mistake");

	append_to_file($node->data_dir . '/point.conf', "testdb.debug_point = '$mistake plant'\n");
	run($admin, 'SELECT pg_reload_conf()');
	ok(poll(sub { !defined $admin->query(q{SELECT testdb_clone('regression_template')}) }), "$mistake: a call fails");
	ok(poll(sub { !-e $node->data_dir . '/postmaster.pid' }), "$mistake: the server ends");
	like(slurp_file($node->logfile), $message, "$mistake: the log says why");
	$node->_update_pid(0);
}

done_testing();
