
# The name that testdb_clone has returned is good for ever, also if all processes of the server are killed in that instant, and if
# nobody has committed anything since.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Test::More;
use TestdbCrash;
use TestdbTest;

new_cluster('main');
for my $sync ('on', 'off')
{
	$node->stop;
	# Nothing else writes WAL out.
	set_variant([ 'minimal', 'on', 'off', $sync ]);
	$node->append_conf('postgresql.conf', "wal_writer_delay = 10s\ntestdb.spares = 0");
	$node->start;
	for my $how ('new', 'new, given name', 'recycled', 'recycled, given name')
	{
		my $admin = try_session('postgres');
		my $argument = $how =~ /given/ ? ", 'regression_mine'" : '';
		$admin->do("SELECT testdb_drop(name) FROM testdb_clones");
		$admin->do('DROP DATABASE IF EXISTS regression_mine');
		poll(sub { !$admin->query('SELECT sum(recycling) FROM testdb_templates') });
		if ($how =~ /recycled/)
		{
			# Twice: what the first one is restored to, the second finds.
			for (1 .. 2)
			{
				my $name = $admin->query("SELECT testdb_clone('$template')");
				$admin->do("SELECT testdb_drop('$name')");
				poll(sub { $admin->query('SELECT sum(spares) FROM testdb_templates WHERE recycling = 0') });
			}
		}
		else
		{
			# Only a restart makes sure that there is no spare.
			$node->stop;
			$node->start;
			$admin = try_session('postgres');
		}
		my $name = $admin->query("SELECT testdb_clone('$template'$argument)");
		my $oid = $admin->query("SELECT oid FROM pg_database WHERE datname = '$name'");
		$node->kill_everything;
		$node->start;

		my $client = try_session($name);
		is($client->query('SELECT count(*) FROM base'),
			2000, "synchronous_commit = $sync: a clone ($how) outlives a crash just after it was handed out")
		  or diag $client->message;
		$admin = try_session('postgres');
		# Nothing is known until the registry has been rebuilt.
		poll(sub { $admin->query('SELECT count(*) FROM testdb_clones()') }, 3);
		is($admin->query("SELECT c.oid FROM testdb_clones() c JOIN pg_database USING (oid) WHERE datname = '$name'"),
			$oid, 'it is still handed out');
		ok($admin->do("SELECT testdb_drop('$name')"), 'and can be dropped') or diag $admin->message;
		my ($directories, $rows);
		poll(
			sub {
				$directories = join ' ', sort map { m{/(\d+)$} } glob $node->data_dir . '/base/*';
				$rows = join ' ', sort map { $_->[0] } $admin->rows('SELECT oid FROM pg_database');
				return $directories eq $rows;
			},
			30);
		is($directories, $rows, 'no directory is left over');
		remove_orphans($directories, $rows);
	}
}
$node->stop;
is(join("\n", complaints()), '', 'the server log has no complaint');
done_testing();
