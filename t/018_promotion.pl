
# What a copy of the server has when it begins a life of its own, from a base backup: a standby that is promoted, and a backup that is
# simply started. The leases are those of the backup, and WAL tells the rest.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

$ENV{TEMP_CONFIG} = $ENV{TESTDB_DEBUG_CONFIG} if $ENV{TESTDB_DEBUG_CONFIG};

my ($template, $other) = ('regression_template', 'regression_other');
my $node = TestdbCluster->new_server(
	'primary', q{
testdb.spares = 2
wal_keep_size = 512MB
include_if_exists 'point.conf'
},
	allows_streaming => 1);
my $admin = $node->session('postgres');
for my $name ($template, $other)
{
	run($admin, "CREATE DATABASE $name");
	$node->in_database(
		$name,
		'CREATE TABLE base AS SELECT generate_series(1, 1000) AS i',
		'CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS i');
}

sub clone
{
	my ($from, @arguments) = @_;
	return run($admin, "SELECT testdb_clone('$from'" . join('', map { ", $_" } @arguments) . ')');
}

# Spares that are ready, by their OIDs.
sub spares
{
	my ($from, $n) = @_;
	run($admin, "SELECT testdb_prewarm('$from', $n)");
	# What is being created has such a row, too.
	poll(sub { is_idle($admin) });
	return
	  map { $_->[0] }
	  $admin->rows("SELECT oid FROM pg_database WHERE datconnlimit = -3 AND datname LIKE '$from%' ORDER BY oid");
}

# A test writes to a clone, and commits.
sub write_to
{
	my ($name, $text) = @_;
	$node->in_database($name, 'CREATE TABLE IF NOT EXISTS written (t text)', "INSERT INTO written VALUES ('$text')");
	return;
}

# What was written to a database; undef if there is no such table.
sub written_to
{
	my ($server, $name) = @_;
	my $client = $server->connect_to($name);
	my $rows = $client->query('SELECT string_agg(t, \' \' ORDER BY t) FROM written');
	my $base = $client->query('SELECT count(*) FROM base') // '';
	is($base, 1000, "$name has its template's rows") or diag $client->message;
	$client->close;
	return $rows;
}

# The clones in use of a server, when its workers have nothing more to do; and nothing else is left.
sub in_use
{
	my ($server, $client, $title) = @_;
	$server->adds_up($client, $title);
	is($client->query('SELECT string_agg(datname, \' \') FROM pg_database WHERE datconnlimit < -1'),
		'', "$title: no spare is left");
	return join ' ', sort map { $_->[0] } $client->rows('SELECT name FROM testdb_clones');
}

# In the backup: clones in use, spares, a template that is being built.
my %is = map { $_ => clone($template, "label => '$_'", "lifetime => '1 day'") }
  qw(kept dropped rewound reset_before reset_after);
write_to($is{$_}, 'before') for sort keys %is;
my $recycled = clone($other);
my $recycled_oid = oid_of($admin, $recycled);
my $session = $node->session('postgres');
my $of_session = run($session, "SELECT testdb_clone('$template', scope => 'session')");
my $builder = $node->session('postgres');
my ($row) = $builder->rows("SELECT * FROM testdb_template_begin('app', '1', '$template')");
my $built = $row->[0];
my @spares = spares($template, 2);
my @others = spares($other, 2);
$node->backup('backup', backup_options => [ '--checkpoint', 'fast' ]);
poll(sub { !$admin->query('SELECT count(*) FROM pg_stat_replication') }) or die 'the WAL sender stays';

# The native method goes on after it, and WAL tells of that.
run($admin, "SELECT testdb_rewind('$is{rewound}')");
run($admin, "SELECT testdb_reset('$is{reset_before}')");
write_to($is{$_}, 'after') for qw(rewound reset_before);
run($admin, "SELECT testdb_drop('$recycled')");
isnt($node->spare_of($recycled_oid, $recycled), undef, 'a clone of the backup becomes a spare');
run($admin, "SELECT testdb_template_set('$other', 6)");
my %known = map { $_ => 1 } @others, $recycled_oid;
ok((grep { !$known{$_} } spares($other, 6)), 'spares are made that the backup does not have');
my @ready = spares($template, 2);

my $standby = TestdbCluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
poll(sub { $admin->query('SELECT count(*) FROM pg_stat_replication') }) or die 'the standby does not follow';

# While it follows, spares are handed out all the same.
my %in_backup = map { $_ => 1 } @spares;
my @handed = grep { $in_backup{ oid_of($admin, $_) } } map { clone($template, "label => 'handed'") } @ready;
cmp_ok(scalar @handed, '>', 0, 'spares of the backup are handed out');
write_to($handed[0], 'after');
$node->in_database($handed[0], 'INSERT INTO fleeting VALUES (2)');
my $new = clone($template, "name => 'regression_new'");
write_to($new, 'after');
run($admin, "SELECT testdb_drop('$is{dropped}')");
run($admin, "SELECT testdb_reset('$is{reset_after}')");
write_to($is{reset_after}, 'after');
write_to($is{kept}, 'later');
$node->in_database($built, 'CREATE TABLE built AS SELECT 1 AS i');
run($builder, "SELECT testdb_template_finish('$built')");

# The last clone, whose user has not done anything yet, and the primary dies.
run($admin, 'SELECT pg_switch_wal()');
$node->wait_for_catchup($standby);
$node->kill_server;
$_->close for $admin, $session, $builder;
$standby->promote;
my $promoted = $standby->session('postgres');
my $expected = join ' ', sort @is{qw(kept rewound reset_before)}, @handed;
is(in_use($standby, $promoted, 'promoted'), $expected,
	'when it is promoted, the clones are those that were handed out');
is(written_to($standby, $handed[0]), 'after', 'with what was committed in them');
is($standby->in_database($handed[0], 'SELECT count(*) FROM fleeting'), 0, 'unlogged tables are empty');
is(written_to($standby, $is{kept}), 'before later', 'a clone that was in use at the backup is still');
is(written_to($standby, $is{$_}), 'after', "$_: the template's content, and what was written since")
  for qw(rewound reset_before reset_after);
is($promoted->query("SELECT label FROM testdb_clones WHERE name = '$is{kept}'"), 'kept', 'it has its label');
is( $promoted->query(
		"SELECT label, expires_at, scope, template, owner = current_user FROM testdb_clones WHERE name = '$handed[0]'"),
	"||manual|$template|t",
	'others have no terms');
is($promoted->query("SELECT database FROM testdb_builds WHERE name = 'app' AND state = 'ready'"),
	$built, 'a template that was finished since is one');
is(written_to($standby, $new), 'after', 'a clone that was created since is a database');
ok(!$promoted->do("SELECT testdb_drop('$new')"), 'but not one of testdb');
ok($promoted->do("DROP DATABASE $new"), 'DROP DATABASE drops it') or diag $promoted->message;

# It is a server like any other.
run($promoted, "SELECT testdb_rewind('$handed[0]')");
is($standby->in_database($handed[0], "SELECT to_regclass('written')"), '', 'such a clone can be rewound');
my $fresh = run($promoted, "SELECT testdb_clone('$template')");
is($standby->in_database($fresh, 'SELECT count(*) FROM base'), 1000, 'others can be created');
$promoted->close;
$standby->kill_server;
$standby->start_again;
$promoted = $standby->reconnect;
$expected = join ' ', sort split(' ', $expected), $fresh;
is(in_use($standby, $promoted, 'after a crash'), $expected, 'after a crash it has the same clones');
run($promoted, "SELECT testdb_drop('$handed[0]')");
is(oid_of($promoted, $handed[0]), '', 'a clone can be dropped');

# A backup by hand is no consumer of WAL. While it is taken a spare is handed out whose lease it has already. Recovery from it is not that
# from an archive: the timeline stays.
run($promoted, "SELECT testdb_prewarm('$template', 2)");
poll(sub { is_idle($promoted) }) or die 'the workers do not come to rest';
my $backup = $standby->backup_dir . '/by_hand';
my $creator = $standby->session('postgres');
if ($ENV{TESTDB_DEBUG_CONFIG})
{
	# Another clone is complete by then, but not recorded as such.
	my $position = -s $standby->logfile;
	$standby->use_point('clone-complete wait');
	$creator->send("SELECT testdb_clone('$other', 'regression_created')");
	poll(sub { slurp_file($standby->logfile, $position) =~ /debug point "clone-complete" was reached/ })
	  or die 'no clone is created';
}
run($promoted, q{SELECT pg_backup_start('by hand', true)});
PostgreSQL::Test::RecursiveCopy::copypath($standby->data_dir, $backup,
	filterfn => sub { $_[0] ne 'postmaster.pid' && $_[0] ne 'pg_wal' });
my $meanwhile = run($promoted, "SELECT testdb_clone('$template')");
$standby->in_database($meanwhile, q{CREATE TABLE written AS SELECT 'meanwhile' AS t});
if ($ENV{TESTDB_DEBUG_CONFIG})
{
	$standby->use_point('');
	my $answer = $creator->result;
	die $creator->told if $answer->{error};
	$standby->in_database('regression_created', q{CREATE TABLE written AS SELECT 'created' AS t});
}

# If WAL ended in the middle of the creation of a spare, its directory would stay behind.
run($promoted, "SELECT testdb_prewarm('$template', 2)");
poll(sub { is_idle($promoted) }) or die 'the workers do not come to rest';
my $label = run($promoted, 'SELECT labelfile FROM pg_backup_stop()');
open my $out, '>', "$backup/backup_label" or die "$backup/backup_label: $!";
print $out "$label\n";
close $out;
PostgreSQL::Test::RecursiveCopy::copypath($standby->data_dir . '/pg_wal', "$backup/pg_wal");
$expected = join ' ', sort map { $_->[0] } $promoted->rows('SELECT name FROM testdb_clones');
$promoted->close;
$standby->stop;
my $copy = TestdbCluster->new('copy');
$copy->init_from_backup($standby, 'by_hand');
$copy->start;
my $client = $copy->session('postgres');
is(in_use($copy, $client, 'copy'),
	$expected, 'a copy of the server has the clones that were handed out when the backup ended');
is(written_to($copy, $meanwhile), 'meanwhile', 'with what was committed in them');
is(written_to($copy, 'regression_created'), 'created', 'also if it was being created when its lease was copied')
  if $ENV{TESTDB_DEBUG_CONFIG};

# Somebody copies the files at one moment, and makes a standby of that: no backup has a label.
run($client, $_) for "SELECT testdb_prewarm('$template', 1)", 'CHECKPOINT';
poll(sub { is_idle($client) }) or die 'the workers do not come to rest';
PostgreSQL::Test::RecursiveCopy::copypath(
	$copy->data_dir,
	$copy->backup_dir . '/files',
	filterfn => sub { $_[0] ne 'postmaster.pid' });
my $last = TestdbCluster->new('last');
$last->init_from_backup($copy, 'files', has_streaming => 1);
$last->start;
poll(sub { $client->query('SELECT count(*) FROM pg_stat_replication') }) or die 'the standby does not follow';
my $spare = run($client, "SELECT testdb_clone('$template')");
$copy->in_database($spare, q{CREATE TABLE written AS SELECT 'following' AS t});
$expected = join ' ', sort map { $_->[0] } $client->rows('SELECT name FROM testdb_clones');
$copy->wait_for_catchup($last);
$client->close;
$copy->stop;
$last->promote;
$client = $last->session('postgres');
is(in_use($last, $client, 'last'), $expected, 'a standby that was not made from a base backup has the clones as well');
is(written_to($last, $spare), 'following', 'with what was committed in them');
$client->close;
$last->stop;

done_testing();
