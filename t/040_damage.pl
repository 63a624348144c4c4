
# Somebody lays hands on pg_testdb/snapshots while the server runs: files there vanish, or are changed or replaced. The next
# copy notices, the snapshot is taken anew, and nobody sees an error or a wrong row.
#
#   TESTDB_DAMAGE_ROADS   how many ways of using the snapshot each damage meets: all of them, or two in turn in a short run

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use List::Util qw(min);
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $template = 'regression_template';

# One worker, so that it is known who has read a manifest; and no caller may rely on trying again for a while.
my $node = TestdbCluster->new_server(
	'damage', q{
wal_level = minimal
max_wal_senders = 0
testdb.workers = 1
testdb.template_timeout = 0
});
my $admin = $node->connect_to('postgres');
my $parent = $node->data_dir . '/pg_testdb/snapshots';
my $elsewhere = PostgreSQL::Test::Utils::tempdir();
my $nnames = 0;

run($admin, "CREATE DATABASE $template");
my $client = $node->session($template);
run($client, $_)
  for 'CREATE TABLE t AS SELECT i, md5(i::text) AS x FROM generate_series(1, 500) i', 'CREATE TABLE e (i int)';
my ($t_file, $e_file) = map { $client->query("SELECT pg_relation_filenode('$_')") } qw(t e);
my $content = 'SELECT md5(string_agg(i || x, NULL ORDER BY i)), (SELECT count(*) FROM e) FROM t';
my $expected = run($client, $content);
$node->leave($client, $admin);
my $folder = "$parent/" . oid_of($admin, $template);
my ($table, $empty, $manifest) = ("$folder/$t_file", "$folder/$e_file", "$folder.manifest");

sub put
{
	my ($path, $mode, $data) = @_;
	open my $out, $mode, $path or die "$path: $!";
	print $out $data;
	close $out;
	return;
}

# Puts what is there elsewhere, under a new name, which is returned.
sub move_away
{
	my ($path) = @_;
	my $new = "$elsewhere/" . ++$nnames;
	rename $path, $new or die "$path: $!";
	return $new;
}

# What is done to the snapshot. The last is whether a worker must be a new one to notice: it remembers manifests.
my @damages = (
	[ 'a file is removed', sub { unlink $table } ],
	[ 'a file is truncated', sub { truncate $table, 8192 } ],
	[ 'a file is emptied', sub { truncate $table, 0 } ],
	[ 'a file is longer', sub { put($table, '>>', 'x' x 8192) } ],
	[ 'a file is overwritten', sub { put($table, '+<', 'x' x 8192) } ],
	[ 'a file gets another time', sub { utime time, time, $table } ],
	[ 'a file can\'t be read', sub { chmod 0, $table } ],
	[
		'a directory takes the place of a file',
		sub { unlink $table; mkdir $table; put("$table/x", '>', 'x'); chmod 0, $table }
	],
	[ 'a link takes the place of a file', sub { symlink move_away($table), $table } ],
	[ 'a pipe takes the place of a file', sub { unlink $table; system('mkfifo', $table) } ],
	[ 'an empty file is removed', sub { unlink $empty }, 'all' ],
	[ 'an empty file is written to', sub { put($empty, '>', 'x' x 8192) }, 'all' ],
	[ 'an empty file is a link', sub { symlink move_away($empty), $empty }, 'all' ],
	[ 'the folder is removed', sub { move_away($folder) } ],
	[ 'the folder is empty', sub { move_away($folder); mkdir $folder } ],
	[ 'the folder can\'t be read', sub { chmod 0, $folder } ],
	[ 'the folder is a file', sub { move_away($folder); put($folder, '>', 'x') } ],
	[ 'the folder is a link', sub { symlink move_away($folder), $folder } ],
	[ 'the folder of all snapshots is removed', sub { move_away($parent) } ],
	[ 'the folder of all snapshots can\'t be read', sub { chmod 0, $parent } ],
	[ 'the manifest is removed', sub { unlink $manifest }, 'new worker' ],
	[ 'the manifest is damaged', sub { put($manifest, '+<', 'x' x 100) }, 'new worker' ],
	[
		'the manifest is a directory',
		sub { unlink $manifest; mkdir $manifest; put("$manifest/x", '>', 'x') },
		'new worker'
	],
	[ 'the manifest can\'t be read', sub { chmod 0, $manifest }, 'new worker' ]);

# Asks for something that must work; undef, and a failed test, if it does not.
sub ask
{
	my ($title, $sql) = @_;
	my $answer = $admin->query($sql);
	ok(defined $answer, "$title: no error") or diag $admin->message;
	return $answer;
}

sub has_content
{
	my ($name, $title) = @_;
	my $in_clone = $node->connect_to($name);
	is($in_clone->query($content) // $in_clone->message, $expected, "$title: the content is right");
	$node->leave($in_clone, $admin);
	return;
}

sub change
{
	my ($name) = @_;
	my $in_clone = $node->session($name);
	run($in_clone, $_) for q{UPDATE t SET x = 'x'}, 'INSERT INTO e VALUES (1)';
	$node->leave($in_clone, $admin);
	return;
}

# The roads that lead from the snapshot to a clone: what comes before the damage, which gives an argument, and what comes
# after it, which gives the name of a clone. Those that are restored read only what was changed in them.
my %roads = (
	'clone' => { after => sub { ask($_[1], "SELECT testdb_clone('$template')") } },
	'clone with a name' => { after => sub { ask($_[1], "SELECT testdb_clone('$template', 'regression_mine')") } },
	'prewarm' => {
		after => sub {
			is(ask($_[1], "SELECT testdb_prewarm('$template', 2)"), '2', "$_[1]: spares are made");
			run($admin, "SELECT testdb_drop('" . run($admin, "SELECT testdb_clone('$template')") . q{')});
			return ask($_[1], "SELECT testdb_clone('$template')");
		}
	},
	'recycling' => {
		recycled => 8,
		before => sub { my $name = run($admin, "SELECT testdb_clone('$template')"); change($name); return $name },
		after => sub {
			my ($name, $title) = @_;
			my $oid = oid_of($admin, $name);
			ask($title, "SELECT testdb_drop('$name')");
			$node->spare_of($oid, $name);
			return ask($title, "SELECT testdb_clone('$template')");
		}
	},
	'stale spare' => {
		recycled => 8,
		before => sub {
			run($admin, "SELECT testdb_prewarm('$template', 1)");
			run($admin, "ALTER DATABASE $template SET work_mem = '" . (100 + ++$nnames) . q{kB'});
			return;
		},
		after => sub { ask($_[1], "SELECT testdb_clone('$template')") }
	},
	'reset' => {
		before => sub { my $name = run($admin, "SELECT testdb_clone('$template')"); change($name); return $name },
		after => sub { ask($_[1], "SELECT testdb_reset('$_[0]')") // return; return $_[0] }
	},
	'CREATE DATABASE' => {
		damages => qr/ is removed$/,
		after => sub {
			run($admin, 'SET testdb.serve_create_database = on');
			defined ask($_[1], "CREATE DATABASE regression_served TEMPLATE $template") or return;
			run($admin, 'RESET testdb.serve_create_database');
			is(run($admin, q{SELECT count(*) FROM testdb_clones() WHERE scope = 'database'}),
				'1', "$_[1]: it was served");
			return 'regression_served';
		}
	},
	'rewind' => {
		before => sub { my $name = run($admin, "SELECT testdb_clone('$template')"); change($name); return $name },
		after => sub { ask($_[1], "SELECT testdb_rewind('$_[0]')") // return; return $_[0] }
	});

# Gets rid of all clones and spares, and waits until only the snapshot is left.
sub clear
{
	run($admin, "SELECT testdb_template_set('$template', 0)");
	run($admin, 'DROP DATABASE IF EXISTS regression_served');
	run($admin, 'SELECT testdb_drop_all()');
	poll(
		sub {
			return 1 if run($admin, 'SELECT count(*) FROM testdb_clones()') eq '0';
			run($admin, "SELECT testdb_drop(testdb_clone('$template'))");
			return 0;
		}) or die 'clones stay';
	run($admin, "SELECT testdb_template_set('$template', NULL)");
	return;
}

sub set_recycled
{
	my ($n) = @_;
	$node->set_conf('reload', 'testdb.recycled' => $n);
	return;
}

# Ends the worker, and waits until another one is there, which knows no manifest.
sub renew_worker
{
	my $worker = q{SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = 'testdb worker'};
	my $old = run($admin, $worker);
	run($admin, "SELECT pg_terminate_backend($old)");
	poll(sub { my $new = run($admin, $worker); $new && $new != $old }) or die 'no new worker';
	return;
}

sub try_damage
{
	my ($road, $damage) = @_;
	my ($what, $harm, $how) = (@$damage, '');
	my $title = "$road, $what";
	set_recycled(0);
	clear();
	# There is a snapshot, and it is in order.
	run($admin, "SELECT testdb_drop(testdb_clone('$template'))");
	die "$title: no snapshot" unless -d $folder && -e $manifest && -e $table;
	set_recycled($roads{$road}{recycled} // 0);
	my $argument = $roads{$road}{before} ? $roads{$road}{before}->() : undef;
	renew_worker() if $how eq 'new worker';

	my $position = -s $node->logfile;
	$harm->();
	my $name = $roads{$road}{after}->($argument, $title);
	has_content($name, $title) if defined $name;
	set_recycled(0);
	clear();

	# Also for those to come, and it was noticed.
	has_content(ask("$title, and then", "SELECT testdb_clone('$template')") // 'postgres', "$title, and then");
	my $log = slurp_file($node->logfile, $position);
	like($log, qr/LOG: .*snapshot of template "$template" must be taken anew: /, "$title: the log says so");
	unlike($log, qr/(ERROR|FATAL|PANIC|WARNING):|could not (make|recycle)/, "$title: but nothing else");
	is(run($admin, "SELECT snapshot FROM testdb_templates WHERE name = '$template'"),
		'current', "$title: it is current");
	chmod 0700, glob "$elsewhere/*";
	return;
}

# The roads that a damage can meet.
sub roads_of
{
	my ($damage) = @_;
	return grep {
			 (($damage->[2] // '') ne 'new worker' || /^(clone|recycling)$/)
		  && (!$roads{$_}{damages} || $damage->[0] =~ $roads{$_}{damages})
	} sort keys %roads;
}

my $nroads = how_much('TESTDB_DAMAGE_ROADS', 2, scalar keys %roads);
my @only = split /;/, $ENV{TESTDB_DAMAGES} // '';
my $turn = 0;
for my $damage (@damages)
{
	next if @only && !grep { $damage->[0] =~ /$_/ } @only;
	my @roads = roads_of($damage);
	try_damage($roads[ $turn++ % @roads ], $damage) for 1 .. min($nroads, scalar @roads);
}

# Somebody sits in the template, so that it can't be taken anew: what is there goes on being handed out, and a clone that
# can't be reset stays as it is.
set_recycled(0);
clear();
my $mine = run($admin, "SELECT testdb_clone('$template')");
change($mine);
run($admin, "SELECT testdb_prewarm('$template', 2)");
my $sitter = $node->session($template);
$sitter->query('SELECT 1');
unlink $table or die $!;

for my $restore (qw(reset rewind))
{
	ok(!$admin->do("SELECT testdb_$restore('$mine')"), "in use, $restore: refused");
	is($admin->sqlstate, '55006', "in use, $restore: the template is said to be in use");
	is($node->connect_to($mine)->query('SELECT count(*) FROM e'), '1', "in use, $restore: the clone stays as it was");
}
is(run($admin, 'SELECT snapshot FROM testdb_templates'), 'damaged', 'in use: the view says what is wrong');
has_content(run($admin, "SELECT testdb_clone('$template')"), 'in use, a spare');
has_content(run($admin, "SELECT testdb_clone('$template', 'regression_named')"), 'in use, a spare with a name');
ok(!$admin->do("SELECT testdb_clone('$template')"), 'in use: no copy is made');
is($admin->sqlstate, '55006', 'in use: and the template is said to be in use');
$node->leave($sitter, $admin);
ask('left', "SELECT testdb_reset('$mine')");
has_content($mine, 'left, reset');
has_content(ask('left', "SELECT testdb_clone('$template')") // 'postgres', 'left, clone');

# A commit in the template is no less seen, whatever has become of the snapshot meanwhile.
for my $damage (grep { ($_->[2] // '') ne 'all' } @damages)
{
	my $title = "commit in the template, $damage->[0]";
	set_recycled(0);
	clear();
	run($admin, "SELECT testdb_drop(testdb_clone('$template'))");
	$client = $node->session($template);
	run($client, 'UPDATE t SET x = md5(x)');
	$expected = run($client, $content);
	$node->leave($client, $admin);
	$damage->[1]->();
	has_content(ask($title, "SELECT testdb_clone('$template')") // 'postgres', $title);
}

# What is there when the server starts.
chmod 0, $folder;
$admin->close;
$node->restart;
$admin = $node->connect_to('postgres');
has_content(ask('restart', "SELECT testdb_clone('$template')") // 'postgres', 'restart');

$node->stop;
done_testing();
