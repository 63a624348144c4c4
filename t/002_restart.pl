
# Clones outlive the server's restart and crash. What was not finished when it crashed is removed. What testdb has no
# valid record of is never dropped.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use File::Copy;
use File::Path qw(rmtree);
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

# One worker, so that it is known which one has a call. Its locks are held for long on purpose; nothing of a dropped clone
# is kept, so that the server's state can be compared.
my $node = TestdbCluster->new_server(
	'main', q{
testdb.workers = 1
testdb.lock_timeout = 120s
testdb.recycled = 0
testdb.spares = 0
allow_in_place_tablespaces = on
});
my $leases = $node->data_dir . '/pg_testdb/clones';
my $view = 'SELECT name, template, owner, created_at FROM testdb_clones ORDER BY name';
my $not_ours = qr/^42809: database "\w+" was not created by testdb/;

# Runs a statement that must succeed, in a new session: the server is restarted all the time here.
sub ask
{
	my ($sql, $db) = @_;
	my $client = $node->connect_to($db || 'postgres');
	die $client->told if $client->error;
	my $result = run($client, $sql);
	$client->close;
	return $result;
}

# Makes a clone; its OID.
sub clone
{
	my ($name) = @_;
	ask("SELECT testdb_clone('regression_template', '$name')");
	return ask("SELECT oid FROM pg_database WHERE datname = '$name'");
}

sub drop
{
	my ($name) = @_;
	return ask("SELECT testdb_drop('$name')");
}

sub count_rows
{
	my ($name) = @_;
	return ask('SELECT count(*) FROM t', $name);
}

# Ends the server at once, and starts it: each process gets SIGQUIT. For the data this is a crash.
sub crash
{
	$node->stop('immediate');
	$node->start;
	return;
}

# Starts a call, and waits until its worker waits for a lock; the session.
sub start_call
{
	my ($call) = @_;
	my $client = $node->connect_to('postgres');
	$client->send("SELECT $call");
	$node->wait_held(1);
	return $client;
}

sub replace_file
{
	my ($path, $content) = @_;
	unlink $path;
	append_to_file($path, $content);
	return;
}

ask($_)
  for q{CREATE TABLESPACE regress_space LOCATION ''},
  'CREATE DATABASE regression_template TABLESPACE regress_space',
  'CREATE DATABASE regression_precious';
ask('CREATE TABLE t TABLESPACE pg_default AS SELECT generate_series(1, 1000) AS n', 'regression_template');
my $state = $node->server_state;

# An orderly restart, and two crashes: the same clones, and they can be dropped.
clone("regression_$_") for 1 .. 4;
ask('ALTER DATABASE regression_4 RENAME TO regression_renamed');
my $before = ask($view);
$node->restart;
is(ask($view), $before, 'clones outlive a restart');
is(drop('regression_1'), 't', 'one is dropped after a restart');
$before = ask($view);
$node->kill_server;
$node->start_again;
is(ask($view), $before, 'clones outlive a crash');
is(count_rows('regression_2'), 1000, 'with their rows');
is(drop('regression_2'), 't', 'one is dropped after a crash');
is(drop('regression_renamed'), 't', 'one with another name is dropped');
crash();
is(drop('regression_3'), 't', 'one is dropped after a second crash');
$node->is_restored($state, 'after restarts');

# A crash while a clone is made: before there is any file of it, with either method,
for my $method ('file_copy', 'native')
{
	ask("ALTER DATABASE postgres SET testdb.method = '$method'");
	my @sessions = $node->hold_workers;
	push @sessions, start_call(q{testdb_clone('regression_template')});
	is(scalar(() = glob("$leases/*")), 1, "$method: a record is there before anything else");
	crash();
	$node->is_restored($state, "$method, after a crash before anything was copied");
}
ask('ALTER DATABASE postgres RESET testdb.method');

# while files are copied,
ask('CREATE DATABASE regression_default');
ask('CREATE TABLE t AS SELECT 1', 'regression_default');
my $state_default = $node->server_state;
for my $method ('file_copy', 'native')
{
	ask("ALTER DATABASE postgres SET testdb.method = '$method'");
	my ($client, $worker, $oid) = $node->frozen_clone('regression_default');
	ok(-d $node->data_dir . "/base/$oid", "$method: a directory is there");
	$node->kill_server($worker);
	$node->start_again;
	$node->is_restored($state_default, "$method, after a crash while files were copied");
}
ask('ALTER DATABASE postgres RESET testdb.method');
ask('DROP DATABASE regression_default');

# and when all is made, but the record does not say so yet: nobody can have got the name.
clone('regression_1');
my %known = map { $_ => 1 } glob("$leases/*");
my $lock = $node->hold_workers;
my $client = start_call(q{testdb_clone('regression_template', 'regression_2')});
my ($lease) = grep { !$known{$_} } glob("$leases/*");
my $creating = slurp_file($lease);
run($lock, 'COMMIT');
is($client->result->{rows}[0][0], 'regression_2', 'a clone is made');
$node->stop('immediate');
replace_file($lease, $creating);
$node->start;
is(ask('SELECT name FROM testdb_clones'), 'regression_1', 'after a crash before the record said so: it is not there');
is(drop('regression_1'), 't', 'after a crash before the record said so: another one is left alone');
$node->is_restored($state, 'after a crash before the record said so');

# A crash when a drop has not begun yet leaves a clone. When it has, it is finished, however far it had come.
clone('regression_1');
$lock = $node->connect_to('postgres');
run($lock, 'BEGIN; ALTER DATABASE regression_1 RENAME TO regression_2');
$client = start_call(q{testdb_drop('regression_1')});
crash();
is(count_rows('regression_1'), 1000, 'after a crash before a drop had begun: the clone is there');
is(drop('regression_1'), 't', 'after a crash before a drop had begun: it is dropped');

for my $files ('some', 'no')
{
	my $oid = clone('regression_1');
	my @sessions = $node->hold_workers;
	push @sessions, start_call(q{testdb_drop('regression_1')});
	ask("UPDATE pg_database SET datconnlimit = -2 WHERE oid = $oid");
	$node->stop('immediate');
	rmtree($node->data_dir . "/base/$oid");
	rmtree(glob($node->data_dir . "/pg_tblspc/*/*/$oid")) if $files eq 'no';
	$node->start;
	$node->is_restored($state, "after a crash in a drop that left $files files");
}

# Clones that were dropped while testdb was not there to see it.
clone('regression_1');
$node->set_conf('restart', 'shared_preload_libraries' => '');
ask('DROP DATABASE regression_1');
$node->set_conf('restart', 'shared_preload_libraries' => 'testdb');
$node->is_restored($state, 'after a drop while testdb was not loaded');

# More clones than there is room for, after a change of the settings: they are protected until there is. Each worker has room
# for one more, which it needs for testdb_reset.
clone("regression_$_") for 1 .. 4;
$node->set_conf('restart', 'testdb.max_clones' => 1);
is(ask(q{SELECT count(*) = 1 + current_setting('testdb.workers')::int FROM testdb_clones}),
	't', 'as many clones are known as there is room for');
my $other = ask(
	q{
	SELECT datname FROM pg_database
	WHERE datname ~ '^regression_[1-4]$' AND datname NOT IN (SELECT name FROM testdb_clones) LIMIT 1});
like($node->error_of("SELECT testdb_drop('$other')"), $not_ours, 'the other one is not dropped');
$node->set_conf('restart', 'testdb.max_clones' => 1000);
is(join('', map { drop("regression_$_") } 1 .. 4), 'tttt', 'all are known again');

# Records that testdb does not understand protect their database, and say so in the log; others are not affected.
my $good = slurp_file("$leases/" . clone('regression_good'));
# How each of them is made from the record that the database has.
my %bad = (
	empty => sub { '' },
	half => sub { substr($_[0], 0, length($_[0]) / 2) },
	flipped_bit => sub { $_[0] ^ ("\0" x 60 . "\1") },
	garbage => sub { 'x' x length $_[0] },
	zeros => sub { "\0" x length $_[0] },
	unreadable => sub { $_[0] });
my %oids = map { $_ => clone("regression_$_") } sort keys %bad;
my $precious = ask(q{SELECT oid FROM pg_database WHERE datname = 'regression_precious'});
my $offset = -s $node->logfile;
$node->stop;
for my $name (keys %bad)
{
	my $path = "$leases/$oids{$name}";
	replace_file($path, $bad{$name}->(slurp_file($path)));
}
chmod 0, "$leases/$oids{unreadable}" or die "chmod: $!";
# Another database's valid record is none of this one.
replace_file("$leases/$precious", $good);
# What is no number is nobody's business. A record without a database, empty as a crash may leave it, is removed.
replace_file("$leases/README", 'not ours');
replace_file("$leases/99999", '');
$node->start;
for my $name (sort keys %bad)
{
	like($node->error_of(qq{SET testdb.timeout = '3s'; SELECT testdb_drop('regression_$name')}),
		$not_ours, "bad record, $name: its database is protected");
	is(count_rows("regression_$name"), 1000, "bad record, $name: its database can be used");
	ok($node->log_contains(qr/LOG:  .*"pg_testdb\/clones\/$oids{$name}"/, $offset), "bad record, $name: logged");
}
like($node->error_of(q{SELECT testdb_drop('regression_precious')}),
	$not_ours, 'the record of another database does not count');
is(ask('SELECT name FROM testdb_clones'), 'regression_good', 'the view shows the one with a good record');
ok(-e "$leases/README", 'a foreign file is left alone');
is(drop('regression_good'), 't', 'a good record counts');
ask("DROP DATABASE regression_$_") for keys %bad;
unlink map { "$leases/$_" } $precious, values %oids, 'README';
$node->is_restored($state, 'after bad records');

# No records at all.
clone('regression_1');
$node->stop;
rmtree($node->data_dir . '/pg_testdb');
$node->start;
like($node->error_of(q{SELECT testdb_drop('regression_1')}), $not_ours, 'without records nothing is dropped');
is(ask('SELECT count(*) FROM testdb_clones'), 0, 'without records there are no clones');
ask('DROP DATABASE regression_1');
$node->is_restored($state, 'after the loss of all records');

# Crashes at any moment, under load: each clone that is there is known, has its rows and can be dropped.
$node->set_conf('restart', 'testdb.workers' => 2);
my $script = $node->basedir . '/load.sql';
replace_file(
	$script, q{
SELECT testdb_clone('regression_template') AS clone \gset
SELECT testdb_clone('regression_template');
SELECT testdb_drop(:clone);
});
for my $round (1, 2)
{
	my $admin = $node->connect_to('postgres');
	my $load = IPC::Run::start(
		[
			'pgbench', '-n', '-M', 'prepared', '-c', 4, '-t', 1000,
			'-f', $script, '-h', $node->host, '-p', $node->port, 'postgres'
		],
		'>',
		\my $out,
		'2>',
		\my $err);
	poll(sub { run($admin, 'SELECT count(*) FROM testdb_clones') > 2 * $round }) or die "no load: $err";
	$node->kill_server;
	$load->finish;
	$node->start_again;
	$admin = $node->connect_to('postgres');
	poll(sub { is_idle($admin) });
	my @names = split /\n/, run($admin, 'SELECT name FROM testdb_clones');
	ok(@names > 0, "crash under load $round: there are clones");
	is( run($admin, q{
			SELECT datname FROM pg_database WHERE datname LIKE 'regression_template_%'
			EXCEPT SELECT name FROM testdb_clones}),
		'',
		"crash under load $round: all are known");
	is(join(' ', grep { count_rows($_) != 1000 } @names), '', "crash under load $round: they have their rows");
	is(join(' ', grep { drop($_) ne 't' } @names), '', "crash under load $round: they are dropped");
	$node->is_restored($state, "crash under load $round: nothing is left");
}

$node->stop;
done_testing();
