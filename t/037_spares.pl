
# What loops over the databases of a server does not stumble over spares, and what somebody does to a spare is in nobody's
# clone.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $template = 'regression_template';
my $node = TestdbCluster->new_server('spares', "testdb.workers = 2\ntestdb.spares = 5\nmax_prepared_transactions = 2");
my $admin = $node->session('postgres');
run($admin, $_)
  for "CREATE DATABASE $template IS_TEMPLATE true CONNECTION LIMIT 9", 'CREATE ROLE regress_owner LOGIN',
  'CREATE ROLE regress_other';
run($admin, 'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop, testdb_prewarm TO regress_owner');

# The names of the spares.
sub spares
{
	return map { $_->[0] } $admin->rows(
		q{
		SELECT datname FROM pg_database d JOIN testdb_clones() c USING (oid) WHERE c.state = 'spare' ORDER BY 1});
}

# Waits until there are so many.
sub await_spares
{
	my ($n) = @_;
	run($admin, "SELECT testdb_prewarm('$template', $n)");
	return poll(sub { spares() >= $n });
}

# The outsiders, with five spares and three clones.
my @clones = map { run($admin, "SELECT testdb_clone('$template')") } 1 .. 3;
ok(await_spares(5), 'five spares and three clones are there');
my @spares = spares();

sub outsiders
{
	my ($title) = @_;
	my @where = ('-h', $node->host, '-p', $node->port);
	my ($out, $err) = run_command([ 'vacuumdb', @where, '--all' ]);
	unlike($err, qr/error|FATAL/i, "$title: vacuumdb --all finds no fault");
	like($out, qr/"$_"/, "$title: and visits each clone") for @clones;
	unlike($out, qr/"$_"/, "$title: but no spare")        for @spares;
	($out, $err) = run_command([ 'pg_dumpall', @where ]);
	is($err, '', "$title: nor does pg_dumpall");
	my %dumped = map { $_ => 1 } $out =~ /^\\connect (regression_template_\w+)/mg;
	is_deeply([ sort keys %dumped ], [ sort @clones ], "$title: which dumps the clones alone");
	my @found = map { $_->[0] } $admin->rows(
		q{
		SELECT datname FROM pg_database
		WHERE datallowconn = true AND datistemplate = false AND datname != current_database()});
	is_deeply([ sort @found ], [ sort @clones ], "$title: postgres_exporter finds the clones alone");
	for my $found (@found)
	{
		my $in = $node->connect_to($found);
		is($in->query('SELECT current_database()'), $found, "$title: and gets into each");
		$in->close;
	}
	cmp_ok(scalar($admin->rows('SELECT pg_database_size(datname) FROM pg_database WHERE datconnlimit = -3')),
		'>=', 5, "$title: the size of a spare can be asked for");
}
outsiders('new spares');

my $closed = $node->connect_to($spares[0]);
like(
	$closed->message,
	qr/not currently accepting connections|has not been handed out/,
	'even a superuser gets into no spare');
like($closed->message, qr/"$spares[0]"/, 'the message has its name');

# The same with spares that had another life.
run($admin, "SELECT testdb_drop('$_')") for @clones;
@clones = map { run($admin, "SELECT testdb_clone('$template')") } 1 .. 3;
ok(await_spares(5), 'again');
@spares = spares();
outsiders('with recycled ones');

# Who gets a clone gets in, at once, from any transaction.
for my $begin ('BEGIN', 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'BEGIN ISOLATION LEVEL SERIALIZABLE')
{
	my $caller = $node->session('postgres');
	run($caller, $begin);
	run($caller, 'SELECT count(*) FROM pg_database');
	run($caller, 'SAVEPOINT a');
	my $name = run($caller, "SELECT testdb_clone('$template')");
	my $in = $node->connect_to($name);
	is($in->query('SELECT 1'), 1, "$begin: another session connects before the end of the caller's transaction");
	run($caller, 'ROLLBACK TO a');
	run($caller, 'ROLLBACK');
	is(run($admin, "SELECT datallowconn, datconnlimit FROM pg_database WHERE datname = '$name'"),
		't|9', "$begin: and ROLLBACK does not close it");
	$_->close for $in, $caller;
	run($admin, "SELECT testdb_drop('$name')");
}

# What somebody does to a spare. Each is done to all of them; then clones are taken.
my %shared = (
	comment => 'SELECT description FROM pg_shdescription WHERE objoid = %s',
	acl => 'SELECT datacl FROM pg_database WHERE oid = %s',
	owner => 'SELECT datdba::regrole FROM pg_database WHERE oid = %s',
	settings => 'SELECT setrole, setconfig FROM pg_db_role_setting WHERE setdatabase = %s',
	limit => 'SELECT datconnlimit, datallowconn, datistemplate FROM pg_database WHERE oid = %s',
	dependencies => 'SELECT refobjid::regrole, deptype FROM pg_shdepend WHERE dbid = 0 AND objid = %s ORDER BY 1, 2');

# What the shared catalogs say of a database, in one text.
sub described_row
{
	my ($name) = @_;
	my $oid = oid_of($admin, $name);
	return join "\n", map {
		"$_: " . join(
			' ',
			map {
				join '|',
				  map { $_ // '' }
				  @$_
			} $admin->rows(sprintf $shared{$_}, $oid))
	} sort keys %shared;
}
my $asked = $node->session('postgres', user => 'regress_owner');

# Makes five spares for the role.
sub prewarm_owner
{
	run($asked, "SELECT testdb_prewarm('$template', 5)");
	return map { $_->[0] } $admin->rows(
		q{
		SELECT datname FROM pg_database d JOIN testdb_clones() c USING (oid)
		WHERE c.state = 'spare' AND datdba = 'regress_owner'::regrole});
}
prewarm_owner();
my $clean = run($asked, "SELECT testdb_clone('$template')");
my $expected = described_row($clean);
run($asked, "SELECT testdb_drop('$clean')");
my @kinds = (
	[ 'owner', 'GRANT ALL ON DATABASE %s TO regress_other' ],
	[ 'owner', 'REVOKE ALL ON DATABASE %s FROM PUBLIC' ],
	[ 'owner', q{COMMENT ON DATABASE %s IS 'mine'} ],
	[ 'owner', q{ALTER DATABASE %s SET application_name = 'mine'} ],
	[ 'owner', q{ALTER ROLE regress_owner IN DATABASE %s SET work_mem = '1MB'} ],
	[ 'owner', 'ALTER DATABASE %s CONNECTION LIMIT 3' ],
	[ 'owner', 'ALTER DATABASE %s ALLOW_CONNECTIONS true' ],
	[ 'owner', 'ALTER DATABASE %1$s RENAME TO "%1$s_mine"' ],
	[ 'admin', 'ALTER DATABASE %s OWNER TO regress_other' ],
	[ 'owner', 'ALTER DATABASE %s IS_TEMPLATE true' ],
	[ 'owner', 'ALTER DATABASE %s REFRESH COLLATION VERSION' ],
	[ 'admin', q{ALTER ROLE ALL IN DATABASE %s SET work_mem = '1MB'} ],
	[ 'admin', 'DROP OWNED BY regress_other' ],
	[ 'admin', q{COMMENT ON DATABASE %s IS 'a superuser''s'} ],
	[ 'admin', 'GRANT CREATE ON DATABASE %s TO regress_other' ],
	[ 'admin', q{DO $$BEGIN EXECUTE 'GRANT TEMPORARY ON DATABASE %s TO regress_other'; END$$} ],
	[ 'admin', q{UPDATE pg_database SET datacl = '{regress_other=c/postgres}' WHERE datname = '%s'} ],
	[ 'admin', 'REASSIGN OWNED BY regress_owner TO regress_other' ]);
for my $kind (@kinds)
{
	my ($who, $sql) = @$kind;
	my @names = prewarm_owner();
	my $session = $who eq 'owner' ? $asked : $admin;
	cmp_ok(scalar @names, '>=', 1, "$sql: there are spares");
	for my $name (@names)
	{
		$session->query(sprintf $sql, $name);
	}
	my @got = map { run($asked, "SELECT testdb_clone('$template')") } 1 .. 3;
	is(described_row($_), $expected, "$sql: not in the clone that somebody gets") for @got;
	run($asked, "SELECT testdb_drop('$_')") for @got;
}

# Not yet committed when clones are taken.
my @names = prewarm_owner();
my $other = $node->session('postgres', user => 'regress_owner');
run($other, 'BEGIN');
$other->query("COMMENT ON DATABASE $_ IS 'mine'"), $other->query("GRANT CREATE ON DATABASE $_ TO regress_other")
  for @names;
my $got = run($asked, "SELECT testdb_clone('$template')");
run($other, 'COMMIT');
is(described_row($got), $expected, 'what is committed after the clone was taken is not in it either');

# What was handed out survives a crash at once.
run($asked, 'SET synchronous_commit = off');
for my $round (1 .. 3)
{
	prewarm_owner();
	$got = run($asked, "SELECT testdb_clone('$template')");
	$node->stop('immediate');
	$node->start;
	$admin = $node->session('postgres');
	$asked = $node->session('postgres', user => 'regress_owner');
	run($admin, "SELECT testdb_prewarm('$template', 1)");
	is(described_row($got), $expected, "round $round: a clone that was handed out before a crash is open");
	my $in = $node->session($got);
	is($in->query('SELECT 1'), 1, "round $round: and somebody gets in");
	$in->close;
}
$node->stop;
done_testing();
