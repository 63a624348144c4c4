
# What the tests of a clone's life share: a server with a template, and ways to look at a clone and what is left of it.

package TestdbLife;

use strict;
use warnings;

use Exporter 'import';
use Test::More;
use TestdbCluster;
use TestdbTest;

our @EXPORT = qw($node $admin $leases $template set_up in_database clone exists_now goes shown count_rows);

our $template = 'regression_template';
our $node;
our $admin;     # a session of the superuser in the database postgres
our $leases;    # where they are on disk

# Starts the server, and makes the template and two roles that may have clones.
sub set_up
{
	$node = TestdbCluster->new_server(
		'main', q{
max_prepared_transactions = 5
restart_after_crash = on
testdb.lock_timeout = 60s
});
	$leases = $node->data_dir . '/pg_testdb/clones';
	$admin = $node->connect_to('postgres');
	run($admin, $_)
	  for "CREATE DATABASE $template IS_TEMPLATE true", 'CREATE ROLE regress_user LOGIN',
	  'CREATE ROLE regress_other LOGIN',
	  'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_drop_all, testdb_reset, testdb_keep, testdb_prewarm
		TO regress_user, regress_other';
	in_database($template, 'CREATE TABLE t AS SELECT generate_series(1, 100) AS n; GRANT ALL ON t TO PUBLIC');
	return;
}

# Runs a statement in a session of its own in a database; what it returned.
sub in_database
{
	my ($db, $sql, %args) = @_;
	my $client = $node->connect_to($db, %args);
	die "$db: " . $client->told if $client->error;
	my $result = run($client, $sql);
	$client->close;
	return $result;
}

# Makes a clone in a session, by default the administrator's; its name.
sub clone
{
	my ($terms, $client) = @_;
	return run($client || $admin, "SELECT testdb_clone('$template'" . ($terms ? ", $terms" : '') . ')');
}

# Is there a database of that name?
sub exists_now
{
	my ($name) = @_;
	return run($admin, "SELECT count(*) FROM pg_database WHERE datname = '$name'");
}

# Waits until a clone has gone; false if it stays.
sub goes
{
	my ($name, $seconds) = @_;
	return poll(sub { !exists_now($name) && !run($admin, "SELECT count(*) FROM testdb_clones WHERE name = '$name'") },
		$seconds || 30);
}

# A column of the view.
sub shown
{
	my ($name, $columns) = @_;
	return run($admin, "SELECT $columns FROM testdb_clones WHERE name = '$name'");
}

sub count_rows
{
	my ($name, %args) = @_;
	return in_database($name, 'SELECT count(*) FROM t', %args);
}

1;
