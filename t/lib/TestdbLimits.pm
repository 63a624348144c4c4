
# What the tests of limits share: two templates, and whether all is in order when a limit has been met.

package TestdbLimits;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbTest;

our @EXPORT = qw($template $other populate works fill trouble);

our $template = 'regression_template';
our $other = 'regression_other';

# Makes both templates, and a role.
sub populate
{
	my ($node) = @_;
	my $admin = $node->connect_to('postgres');
	run($admin, $_)
	  for "CREATE DATABASE $template IS_TEMPLATE true", "CREATE DATABASE $other IS_TEMPLATE true",
	  'CREATE ROLE regress_user LOGIN',
	  'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_drop_all, testdb_prewarm TO regress_user';
	my $client = $node->connect_to($template);
	run($client, 'CREATE TABLE t AS SELECT generate_series(1, 10) AS n');
	$client->close;
	return $admin;
}

# A clone can be made, used and dropped.
sub works
{
	my ($node, $admin, $title) = @_;
	my $name = $admin->query("SELECT testdb_clone('$template')");
	ok($name, "$title: a clone is made") or return diag $admin->told;
	my $client = $node->connect_to($name);
	is($client->query('SELECT count(*) FROM t'), 10, "$title: it has its content");
	ok($client->do('INSERT INTO t VALUES (11)'), "$title: it can be written to");
	$client->close;
	return is($admin->query("SELECT testdb_drop('$name')"), 't', "$title: it is dropped");
}

# Makes clones until that fails, or too many are there; how many there are.
sub fill
{
	my ($admin, $max) = @_;
	for my $n (0 .. $max)
	{
		return $n unless $admin->do("SELECT testdb_clone('$template')");
	}
	return $max + 1;
}

# What no error may come to, in the server's log.
sub trouble
{
	my ($node) = @_;
	return join "\n", grep { /PANIC|TRAP|signal (6|9|11)/ } split /\n/, slurp_file($node->logfile);
}

1;
