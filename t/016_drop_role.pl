
# DROP ROLE, DROP OWNED and REASSIGN OWNED: spares are not in the way, and nobody is handed one that is not his.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Test::More;
use TestdbLife;
use TestdbTest;
use Time::HiRes qw(time);

set_up();

#
# DROP ROLE: spares of the role are not in the way.
#
{
	run($admin,
		'CREATE ROLE regress_gone LOGIN; GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_prewarm TO regress_gone'
	);
	my $client = $node->connect_to('postgres', user => 'regress_gone');
	run($client, "SELECT testdb_prewarm('$template', 2)");
	my @names = map { clone(undef, $client) } 1 .. 4;
	ok(!$admin->do('DROP ROLE regress_gone'), 'DROP ROLE: not while it has clones');
	run($client, "SELECT testdb_drop('$_')") for @names;
	$client->close;
	run($admin, 'DROP OWNED BY regress_gone');
	ok($admin->do('DROP ROLE regress_gone'), 'DROP ROLE: its spares are not in the way') or diag $admin->told;
	is(run($admin, 'SELECT count(*) FROM pg_database d WHERE NOT EXISTS (SELECT FROM pg_roles WHERE oid = datdba)'),
		0, 'DROP ROLE: no database without an owner');
}

# Nor are those of others in which something is the role's or was granted to it, when the template no longer says so.
for my $how (
	'granted on the template',
	'owner in the template',
	'owner of spares',
	'two roles',
	'DROP OWNED in the same transaction')
{
	my @roles = ('regress_gone', $how eq 'two roles' ? 'regress_gone_2' : ());
	my $roles = join ', ', @roles;
	run($admin, "CREATE ROLE $_ LOGIN; GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_prewarm TO $_")
	  for @roles;
	if ($how eq 'granted on the template' || $how eq 'DROP OWNED in the same transaction')
	{
		run($admin, "GRANT CREATE ON DATABASE $template TO regress_gone");
	}
	elsif ($how eq 'owner in the template')
	{
		in_database($template, 'CREATE TABLE theirs (); ALTER TABLE theirs OWNER TO regress_gone');
	}
	run($admin, "SELECT testdb_prewarm('$template', 2)");
	if ($how !~ /template/)
	{
		for my $role (@roles)
		{
			my $client = $node->connect_to('postgres', user => $role);
			run($client, "SELECT testdb_prewarm('$template', 2)");
			run($client, "SELECT testdb_drop(testdb_clone('$template'))");
			$client->close;
		}
	}
	if ($how eq 'granted on the template')
	{
		run($admin, "REVOKE ALL ON DATABASE $template FROM regress_gone");
	}
	elsif ($how eq 'owner in the template')
	{
		in_database($template, 'DROP OWNED BY regress_gone');
	}
	run($admin, "DROP OWNED BY $roles") if $how ne 'DROP OWNED in the same transaction';
	my $start = time;
	ok( $admin->do(
			$how eq 'DROP OWNED in the same transaction'
			? "BEGIN; DROP OWNED BY $roles; DROP ROLE $roles; COMMIT"
			: "DROP ROLE $roles"),
		"DROP ROLE, $how: no spare is in the way") or diag $admin->told;
	$admin->do("ROLLBACK; DROP OWNED BY $roles; DROP ROLE $roles") if $admin->error;
	ok(time - $start < 30, "DROP ROLE, $how: nor waited for in vain");
	my $name = clone();
	is(count_rows($name), 100, "DROP ROLE, $how: clones can be made");
	run($admin, "SELECT testdb_drop('$name')");
}

# A role that is dropped while it asks for clones: they are in the way, and no spare.
{
	run($admin,
		'CREATE ROLE regress_gone LOGIN; GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_prewarm TO regress_gone'
	);
	my $client = $node->connect_to('postgres', user => 'regress_gone');
	run($client, "SELECT testdb_prewarm('$template', 2)");
	my @names;
	for my $round (1 .. 10)
	{
		$client->send("SELECT testdb_clone('$template')");
		my $dropped = $admin->do('DROP ROLE regress_gone');
		my $told = $admin->told;
		push @names, $client->result->{rows}[0][0] // die $client->told;
		ok(!$dropped, 'DROP ROLE while it asks for clones: refused') or last;
		my %mine = map { $_ => 1 } @names;
		is(join(' ', grep { !$mine{$_} } $told =~ /owner of database (\w+)/g),
			'', 'DROP ROLE while it asks for clones: no spare is in the way');
	}
	run($client, "SELECT testdb_drop('$_')") for @names;
	$client->close;
	ok($admin->do('DROP OWNED BY regress_gone; DROP ROLE regress_gone'), 'DROP ROLE when it has none any more')
	  or diag $admin->told;
}

# Spares are given to another role by REASSIGN OWNED, wherever they are in their life: nobody is handed such a one.
{
	my ($client, $name);
	run($admin,
		'CREATE ROLE regress_gone LOGIN; GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_prewarm TO regress_gone'
	);
	$client = $node->connect_to('postgres', user => 'regress_gone');
	my @owners;
	for my $round (1 .. 20)
	{
		$name = clone(undef, $client);
		run($client, "SELECT testdb_drop('$name')");
		# The row may be written in this very instant.
		$admin->do('REASSIGN OWNED BY regress_gone TO regress_other');
		$name = clone(undef, $client);
		push @owners, shown($name, 'owner');
		run($admin, "SELECT testdb_drop('$name')");
	}
	is(join(' ', @owners), join(' ', ('regress_gone') x 20), 'REASSIGN OWNED: clones are those of the role that asked');
	$client->close;
	ok($admin->do('DROP OWNED BY regress_gone; DROP ROLE regress_gone'), 'REASSIGN OWNED: the role can be dropped')
	  or diag $admin->told;
}
$node->adds_up($admin, 'DROP ROLE');

ok(!$node->log_contains(qr/PANIC|TRAP|signal (6|11)|could not (drop|remove|recycle)/), 'no trouble in the log');
$node->stop;
done_testing();
