
# testdb_uninstall() removes what testdb keeps ready, and sees that there is nothing of it later: while others call
# testdb_clone, after a crash at any step, after a restart, and in a server without the library. Clones in use stay.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

# With points at which a process can be made to fail, if there is such a library.
$ENV{TEMP_CONFIG} = $ENV{TESTDB_DEBUG_CONFIG} if $ENV{TESTDB_DEBUG_CONFIG};
my $patience = $PostgreSQL::Test::Utils::timeout_default;
my $template = 'regression_template';
my $node = TestdbCluster->new_server(
	'uninstall', q{
full_page_writes = on
restart_after_crash = off
testdb.spares = 4
include_if_exists 'point.conf'
});
my $data = $node->data_dir;
my $admin = $node->connect_to('postgres');
run($admin, $_)
  for "CREATE DATABASE $template", 'CREATE ROLE regress_user LOGIN', 'CREATE ROLE regress_granted LOGIN',
  'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_uninstall, testdb_install TO regress_granted',
  "ALTER DATABASE $template IS_TEMPLATE true";
{
	my $client = $node->session($template);
	run($client, 'CREATE TABLE t AS SELECT generate_series(1, 100) i');
	$client->close;
}

# What there is beside the databases that every server has.
sub others
{
	return join ' ',
	  sort map { $_->[0] }
	  $admin->rows(
		"SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1', '$template')");
}

# All files and folders under pg_testdb but the two folders, and the file, that every start makes.
sub leftovers
{
	my $text = join ' ', sort map { s{^\Q$data\E/pg_testdb/}{}r } glob("$data/pg_testdb/*"),
	  map { glob "$data/pg_testdb/$_/*" } qw(clones snapshots reserve);
	return $text =~ s/^(clones) ?| ?\b(snapshots(?![\/\w])|origin\b)//gr =~ s/^ //r;
}

# So many clones of the template in use, and spares, a clone that was dropped, a snapshot; the clones' names.
sub prepare
{
	my ($n) = @_;
	my @names = map { run($admin, "SELECT testdb_clone('$template', label => 'mine')") } 1 .. $n + 1;
	run($admin, "SELECT testdb_prewarm('$template', 3)");
	run($admin, "SELECT testdb_drop('" . pop(@names) . q{')});
	return sort @names;
}

# Tests that there are these clones and nothing else.
sub is_clear
{
	my ($title, @names) = @_;
	is(others(), "@names", "$title: no databases but clones in use");
	is( leftovers(),
		join(' ', sort('uninstalled', map { "clones/$_" } map { oid_of($admin, $_) } @names)),
		"$title: no files but theirs and the mark");
	is(run($admin, 'SELECT count(*) FROM testdb_clones()'), scalar @names, "$title: testdb knows no others");
	return;
}

sub uninstall
{
	return join ' ', sort map { $_->[0] } $admin->rows('SELECT * FROM testdb_uninstall()');
}

my $refused = qr/^55000: testdb has been uninstalled from this server\n.*testdb_uninstall.*\n.*testdb_install/;

# Rights.
for my $function (qw(testdb_uninstall testdb_install))
{
	like(
		$node->error_of("SELECT $function()", user => 'regress_user'),
		qr/^42501: permission denied for function $function/,
		"$function: not for everybody");
	like(
		$node->error_of("SELECT $function()", user => 'regress_granted'),
		qr/^42501: permission denied to call $function/,
		"$function: for superusers only, whatever was granted");
	like(
		$node->error_of("BEGIN READ ONLY; SELECT $function()"),
		qr/^25006: cannot execute $function\(\) in a read-only transaction/,
		"$function: not in a read-only transaction");
}

# What it does, twice, and in a transaction that is rolled back.
my @names = prepare(2);
isnt(leftovers(), '', 'there are files');
run($admin, 'BEGIN');
is( run($admin, 'SELECT name || template || owner FROM testdb_uninstall() ORDER BY 1'),
	join("\n", map { $_ . $template . run($admin, 'SELECT current_user') } @names),
	'uninstall: it returns the clones in use');
run($admin, 'ROLLBACK');
is_clear('uninstall', @names);
is(uninstall(), "@names", 'once more: the same clones');
is_clear('once more', @names);

# What is refused from then on, in each way that it could be done; nothing is left of it.
my %calls = (
	'clone' => "SELECT testdb_clone('$template')",
	'clone with a name' => "SELECT testdb_clone('$template', 'regression_mine')",
	'clone of a clone' => "SELECT testdb_clone('$names[0]')",
	'clone by another role' => "SET ROLE regress_granted; SELECT testdb_clone('$template')",
	'prewarm' => "SELECT testdb_prewarm('$template', 1)",
	'template_set' => "SELECT testdb_template_set('$template', 1)",
	'reset' => "SELECT testdb_reset('$names[0]')",
	'rewind' => "SELECT testdb_rewind('$names[0]')",
	map({ ("clone by $_" => "SET testdb.method = $_; SELECT testdb_clone('$template')") } qw(file_copy wal_log)));

sub all_refused
{
	my ($title) = @_;
	like($node->error_of($calls{$_}), $refused, "$title: $_ is refused") for sort keys %calls;
	return;
}
all_refused('uninstall');
is_clear('refused', @names);
run($admin, "SELECT testdb_keep('$names[0]')");
is(run($node->session($names[0]), 'SELECT count(*) FROM t'), '100', 'a clone in use can be used');

# A restart changes nothing.
$admin->close;
$node->restart;
$admin = $node->connect_to('postgres');
all_refused('restart');
is_clear('restart', @names);
like(
	slurp_file($node->logfile),
	qr/testdb does not create databases because it has been uninstalled/,
	'restart: the log says so');
is(run($admin, "SELECT testdb_drop('$names[0]')"), 't', 'restart: a clone can be dropped');
shift @names;
is_clear('dropped', @names);

# A server without the library.
my $preload = run($admin, 'SHOW shared_preload_libraries');
$admin->close;
$node->set_conf('restart', shared_preload_libraries => '');
$admin = $node->connect_to('postgres');
is(others(), "@names", 'without the library: no other databases');
is(run($node->session($names[0]), 'SELECT count(*) FROM t'),
	'100', 'without the library: a clone is an ordinary database');
run($admin, 'DROP EXTENSION testdb');
$admin->close;

# It is not back by itself, but when somebody installs it.
$node->set_conf('restart', shared_preload_libraries => $preload);
$admin = $node->connect_to('postgres');
poll(sub { -d "$data/pg_testdb/snapshots" }) or die 'testdb does not start';
is(run($admin, q{SELECT count(*) FROM pg_extension WHERE extname = 'testdb'}),
	'0', 'with the library again: no extension');
ok(-e "$data/pg_testdb/uninstalled", 'with the library again: the mark stays');
run($admin, 'CREATE EXTENSION testdb');
run($admin, 'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_uninstall, testdb_install TO regress_granted');
ok(!-e "$data/pg_testdb/uninstalled", 'CREATE EXTENSION: the mark is removed');
is(run($admin, 'SELECT name FROM testdb_clones'), "@names", 'CREATE EXTENSION: clones in use are known');
push @names, prepare(1);
@names = sort @names;
is(uninstall(), "@names", 'uninstall again');
is_clear('uninstall again', @names);
run($admin, 'SELECT testdb_install()') for 1 .. 2;
ok($admin->do("SELECT testdb_reset('$names[0]')"), 'testdb_install: a clone can be reset') or diag $admin->told;
push @names, prepare(1);
run($admin, "SELECT testdb_drop('$_')") for @names;
$admin->close;
$node->restart;
$admin = $node->connect_to('postgres');
ok($admin->do("SELECT testdb_drop(testdb_clone('$template'))"), 'testdb_install: for good') or diag $admin->told;

# What can't be removed in time is an error; the mark stays, and the next call finishes.
{
	prepare(0);
	my $holder = $node->session('postgres');
	run($holder, 'BEGIN; LOCK TABLE pg_shdepend IN SHARE MODE');
	my $caller = $node->session('postgres');
	run($caller, q{SET testdb.timeout = '300ms'});
	ok(!$caller->do('SELECT * FROM testdb_uninstall()'), 'timeout: it fails');
	like(
		$caller->told,
		qr/^55006: \d databases? created by testdb could not be removed in time\n.* is one of them.*\n.*again/,
		'timeout: and says why');
	like($node->error_of($calls{clone}), $refused, 'timeout: no clones are made');
	run($holder, 'ROLLBACK');
	is(uninstall(), '', 'timeout: the next call succeeds');
	is_clear('timeout');
	run($admin, 'SELECT testdb_install()');
}

# Others at work meanwhile. Each of them tells what it got; a clone that it has is reported.
for my $round (1 .. 4)
{
	prepare(0);
	my @clients = map { $node->session('postgres') } 1 .. 3;
	my @sql = (
		"SELECT testdb_clone('$template')",
		"SELECT testdb_clone('$template', 'regression_named')",
		"DO \$\$ BEGIN FOR i IN 1 .. 1000 LOOP PERFORM testdb_drop(testdb_clone('$template')); END LOOP; END \$\$");
	my @got;
	my @last;
	run($clients[0], $sql[0]) for 1 .. $round;
	push @got, map { $_->[0] } $admin->rows('SELECT name FROM testdb_clones');
	$clients[$_]->send($sql[$_]) for 0 .. 2;
	my $reported = uninstall();

	for my $client (@clients)
	{
		my $result = $client->result;
		push @got, map { $_->[0] } @{ $result->{rows} || [] };
		push @last, $client->told;
	}
	$_->close for @clients;
	@got = sort @got;
	is($reported, "@got", "round $round: the clones that were handed out are those that are reported");
	is_clear("round $round", @got);
	like($last[2], $refused, "round $round: who goes on is refused");
	is(join('', grep { !/^no error|$refused/ } @last), '', "round $round: there is no other error");
	run($admin, "SELECT testdb_drop('$_')") for @got;
	run($admin, 'SELECT testdb_install()');
}

# A crash, or an error, at each step.
for my $step (map { [ "uninstall-$_", 'kill' ], [ "uninstall-$_", 'error' ] } qw(marked closed settled snapshots))
{
	last unless $ENV{TESTDB_DEBUG_CONFIG};
	my $title = "@$step";
	my @mine = prepare(1);
	$node->use_point($title);
	ok(!$admin->do('SELECT * FROM testdb_uninstall()'), "$title: the call fails");
	$node->set_point('');

	if ($step->[1] eq 'kill')
	{
		$node->start_again;
		$admin = $node->connect_to('postgres');
		like($node->error_of($calls{clone}), $refused, "$title: what was begun stands");
		poll(
			sub {
				others() eq "@mine"
				  && leftovers() !~ /reserve/
				  && run($admin, 'SELECT count(*) FROM testdb_clones()') == @mine;
			});
		is_clear($title, @mine);
	}
	else
	{
		$node->use_point('');
	}
	is(uninstall(), "@mine", "$title: the call can be repeated");
	is_clear("$title, again", @mine);
	run($admin, 'SELECT testdb_install()');
	run($admin, "SELECT testdb_drop('$_')") for @mine;
}

# A crash while a clone is rewound and the server has been uninstalled already: the clone gets its content all the same.
if ($ENV{TESTDB_DEBUG_CONFIG})
{
	my ($name) = prepare(1);
	my $client = $node->session($name);
	run($client, 'DELETE FROM t');
	$client->close;
	$node->use_point('rewind-files kill');
	ok(!$admin->do("SELECT testdb_rewind('$name')"), 'crash in a rewind: the call fails');
	$node->set_point('');
	open my $mark, '>', "$data/pg_testdb/uninstalled" or die $!;
	close $mark;
	$node->start_again;
	$admin = $node->connect_to('postgres');
	is($node->session($name)->query('SELECT count(*) FROM t'), '100', 'crash in a rewind: the clone gets its content');
	is(uninstall(), $name, 'crash in a rewind: it is a clone in use');
	is_clear('crash in a rewind', $name);
}

$node->stop;
done_testing();
