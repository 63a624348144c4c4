
# How much room clones take: of a template that is closed, one copy each, and no snapshot beside it, since its own files are
# the snapshot; and what happens when somebody opens it again.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $node = TestdbCluster->new_server('memory', "testdb.workers = 1\ntestdb.template_timeout = 100ms");
my $data = $node->data_dir;
my $admin = $node->session('postgres');

# Has the template a snapshot that is a copy of its files?
sub has_copy { my ($oid) = @_; return -d "$data/pg_testdb/snapshots/$oid" ? 1 : 0 }

sub has_manifest { my ($oid) = @_; return -f "$data/pg_testdb/snapshots/$oid.manifest" ? 1 : 0 }

# What a new clone has, which is dropped again.
sub found_in_clone
{
	my ($template, $sql) = @_;
	my $clone = run($admin, "SELECT testdb_clone('$template')");
	my $inside = $node->session($clone);
	my $found = run($inside, $sql);
	$inside->close;
	run($admin, "SELECT testdb_drop('$clone')");
	return $found;
}

# No spare is kept from now on, nor is there one.
sub keep_no_spares
{
	my ($template) = @_;
	$node->set_conf('reload', 'testdb.spares' => 0, 'testdb.recycled' => 0);
	poll(
		sub {
			my $left = run($admin, 'SELECT coalesce(sum(spares + recycling), 0) FROM testdb_templates');
			found_in_clone($template, 'SELECT 1') if $left > 0;
			return $left == 0;
		});
	return;
}

# A finished template with some 20 MB in it.
my ($template) = split /\|/, run($admin, q{SELECT database FROM testdb_template_begin('regression_memory', 'f')});
{
	my $inside = $node->session($template);
	run($inside, q{CREATE TABLE t AS SELECT i, repeat(md5(i::text), 10) AS text FROM generate_series(1, 50000) AS i});
	run($inside, 'CREATE TABLE one (i int)');
	$node->leave($inside, $admin);
	run($admin, "SELECT testdb_template_finish('$template')");
}
my $oid = oid_of($admin, $template);
my $sum = q{SELECT count(*) || ' ' || sum(hashtext(text)) FROM t};

# One copy is added by the first clone if the template is closed, two if it is open.
{
	my $before = $node->occupied;
	my $clone = run($admin, "SELECT testdb_clone('$template')");
	my $one = $node->occupied - $before;
	my $size = run($admin, "SELECT pg_database_size('$template')");
	cmp_ok($size, '>', 20_000_000, 'the template is large');
	cmp_ok($one, '<', 1.2 * $size, 'the first clone of a sealed template takes one copy');
	is(has_copy($oid) . has_manifest($oid), '01', 'it has a manifest of its own files, and no copy of them');
	$node->is_same_database($admin, oid_of($admin, $clone), $oid, 'the clone');
	run($admin, "SELECT testdb_drop('$clone')");

	run($admin, "CREATE DATABASE regression_open TEMPLATE $template IS_TEMPLATE true");
	$before = $node->occupied;
	$clone = run($admin, q{SELECT testdb_clone('regression_open')});
	my $two = $node->occupied - $before;
	cmp_ok($two, '>', 1.8 * $size, 'that of an open one takes two');
	cmp_ok($two, '<', 2.4 * $size, 'and no more');
	run($admin, "SELECT testdb_drop('$clone')");
	run($admin, $_) for 'ALTER DATABASE regression_open IS_TEMPLATE false', 'DROP DATABASE regression_open';
}

# Clones are restored from the template's own files as from a copy: what was changed is copied, and nothing else.
{
	my $clone = run($admin, "SELECT testdb_clone('$template', 'regression_again')");
	my $inside = $node->session($clone);
	run($inside, $_) for 'DELETE FROM t WHERE i > 10', 'CREATE TABLE more (i int)', 'INSERT INTO one VALUES (1)';
	ok($admin->do(q{SELECT testdb_rewind('regression_again')}), 'it is rewound') or diag $admin->told;
	like(run($inside, $sum), qr/^50000 /, 'and has its content again');
	is(run($inside, q{SELECT to_regclass('more') IS NULL}), 't', 'and nothing else');
	run($inside, $_) for 'DELETE FROM t WHERE i > 10', 'CREATE TABLE more (i int)';
	ok($admin->do(q{SELECT testdb_reset('regression_again')}), 'it is reset') or diag $admin->told;
	$inside->close;
	$node->is_same_database($admin, oid_of($admin, $clone), $oid, 'the clone that was reset');

	$node->set_conf('reload', 'testdb.spares' => 1, 'testdb.recycled' => 10);
	$inside = $node->session($clone);
	run($inside, 'INSERT INTO one VALUES (1)');
	$inside->close;
	run($admin, 'SELECT testdb_stats_reset()');
	my $clone_oid = oid_of($admin, $clone);
	run($admin, "SELECT testdb_drop('$clone')");
	ok(defined $node->spare_of($clone_oid, $clone), 'it is recycled');
	my ($row) = $admin->rows(
		qq{SELECT recycled, files_copied, bytes_copied < 1000000 FROM testdb_stats WHERE name = '$template'});
	is($row->[0], 1, 'once');
	cmp_ok($row->[1], '<', 20, 'by copying few files');
	is($row->[2], 't', 'and few bytes');
	is(found_in_clone($template, 'SELECT count(*) FROM one'), 0, 'what the former life wrote is gone');
	is(has_copy($oid), 0, 'there still is no copy of the template');
	keep_no_spares($template);
}

# Somebody opens it while a clone is being made: who connects waits until its files are copied.
{
	my $holder = $node->hold_workers;
	my $caller = $node->session('postgres');
	$caller->send("SELECT testdb_clone('$template')");
	$node->wait_held(1);
	run($admin, "ALTER DATABASE $template ALLOW_CONNECTIONS true");
	my $pid = fork // die $!;
	if ($pid == 0)
	{
		my $inside = $node->connect_to($template);
		my $done = !$inside->error && $inside->do('INSERT INTO one VALUES (1)');
		$inside->close;
		require POSIX;
		POSIX::_exit($done ? 0 : 1);
	}
	ok( poll(
			sub {
				run($admin,
					"SELECT count(*) FROM pg_locks WHERE NOT granted AND classid = 'pg_database'::regclass AND objid = $oid"
				) == 1;
			},
			30),
		'who connects to a template that is being copied waits');
	run($holder, 'ROLLBACK');
	$holder->close;
	my $clone = $caller->result->{rows}[0][0];
	waitpid $pid, 0;
	is($?, 0, 'and gets in then');
	my $inside = $node->session($clone);
	is(run($inside, 'SELECT count(*) FROM one'), 0, 'the clone has nothing of what it did');
	like(run($inside, $sum), qr/^50000 /, 'and all that was there');
	$inside->close;
	$caller->close;
	run($admin, "SELECT testdb_drop('$clone')");
}

# While it is open it has a snapshot like any other.
{
	is(found_in_clone($template, 'SELECT count(*) FROM one'), 1, 'the next clone has what was done');
	is(has_copy($oid), 1, 'and comes from a snapshot');
	my $inside = $node->session($template);
	run($inside, $_) for 'BEGIN', 'INSERT INTO one VALUES (2)';
	is(found_in_clone($template, 'SELECT count(*) FROM one'), 1, 'so do clones while somebody is in the template');
	run($inside, 'ROLLBACK');
	$inside->close;
	$node->has_ended($inside->pid);
	run($admin, "ALTER DATABASE $template ALLOW_CONNECTIONS false");
	is(found_in_clone($template, 'SELECT count(*) FROM one'), 1, 'closed again, it is cloned');
	is(has_copy($oid), 0, 'and its snapshot is gone');
}

# Opened with somebody in it there is no copy to clone, and none of files that may change.
{
	run($admin, "ALTER DATABASE $template ALLOW_CONNECTIONS true");
	my $inside = $node->session($template);
	ok(!$admin->do("SELECT testdb_clone('$template')"), 'opened and in use, it is not cloned');
	like($admin->told, qr/^55006: /, 'for that reason');
	run($inside, 'UPDATE one SET i = 7');
	$inside->close;
	$node->has_ended($inside->pid);
	is(found_in_clone($template, 'SELECT string_agg(i::text, \' \') FROM one'), 7, 'afterwards it is, as it then is');
	run($admin, "ALTER DATABASE $template ALLOW_CONNECTIONS false");
}

# Somebody writes to its files behind the server's back, as restoring a backup does.
{
	is(found_in_clone($template, 'SELECT count(*) FROM one'), 1, 'it is closed');
	my $position = -s $node->logfile;
	my ($path) = map { "$data/$_" } run($admin, "SELECT 'base/$oid/PG_VERSION'");
	utime undef, undef, $path or die $!;
	is(found_in_clone($template, 'SELECT count(*) FROM one'), 1, 'a file that was touched: it is cloned');
	like(
		slurp_file($node->logfile, $position),
		qr/snapshot of template "$template" must be taken anew: file ".*PG_VERSION" has been changed/,
		'after another look at it');
	is(has_copy($oid), 0, 'in place');
}

# Spares are made from its own files, and so is what comes after a restart.
{
	$node->set_conf('reload', 'testdb.spares' => 2);
	run($admin, "SELECT testdb_prewarm('$template', 2)");
	is(has_copy($oid), 0, 'spares are made from its own files');
	$admin->close;
	$node->restart;
	$admin = $node->session('postgres');
	is(found_in_clone($template, $sum), found_in_clone($template, $sum), 'after a restart it is cloned');
	is(has_copy($oid) . has_manifest($oid), '01', 'from its own files');
	is(run($admin, q{SELECT testdb_template_drop('regression_memory', 'f')}), 1, 'it is dropped');
	ok(poll(sub { !has_manifest($oid) }), 'and nothing of it is left');
}

$admin->close;
$node->stop;

# Several workers, each of which remembers the manifest that it has read last: opened and closed without a change, the
# template has the same files, but elsewhere.
$node = TestdbCluster->new_server('workers', "testdb.workers = 3\ntestdb.spares = 2");
$data = $node->data_dir;
$admin = $node->session('postgres');
run($admin, 'CREATE DATABASE regression_toggled');
for my $round (1 .. 8)
{
	run($admin, 'ALTER DATABASE regression_toggled ALLOW_CONNECTIONS ' . ($round % 2 ? 'false' : 'true'));
	my @clones = map { run($admin, q{SELECT testdb_clone('regression_toggled')}) } 1 .. 4;
	for my $name (@clones)
	{
		my $inside = $node->session($name);
		run($inside, 'CREATE TABLE own AS SELECT 1');
		$inside->close;
	}
	run($admin, "SELECT testdb_reset('$clones[0]')");
	run($admin, "SELECT testdb_drop('$_')") for @clones;
	poll(sub { run($admin, q{SELECT recycling FROM testdb_templates WHERE name = 'regression_toggled'}) == 0 });
}
unlike(
	slurp_file($node->logfile),
	qr/must be taken anew|could not recycle/,
	'opened and closed again and again: no snapshot seems damaged');
$admin->close;
$node->stop;
done_testing();
