
# Clones whose reset was cut off by a crash, and that can't be restored yet since somebody is in the template: they are to be
# seen, can be dropped at once, and whatever else is asked of them waits until they are restored, or says that they are not. And
# sessions during rewinds that come to no good end at once.
# Needs a library that was built with DEBUG=1.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

plan skip_all => 'no library that was built with DEBUG=1' unless $ENV{TESTDB_DEBUG_CONFIG};
$ENV{TEMP_CONFIG} = $ENV{TESTDB_DEBUG_CONFIG};

my $template = 'regression_template';
my $node = TestdbCluster->new_server(
	'interrupted', q{
restart_after_crash = off
full_page_writes = on
max_prepared_transactions = 4
max_worker_processes = 16
testdb.workers = 8
testdb.template_timeout = 300ms
testdb.lock_timeout = 2s
include_if_exists 'point.conf'
});
my $admin = $node->session('postgres');
run($admin, "CREATE DATABASE $template");
{
	my $client = $node->session($template);
	run($client, 'CREATE TABLE t AS SELECT 1 AS i');
	$node->leave($client, $admin);
}

# The states of these clones, in the view.
sub states
{
	return run($admin, q{SELECT string_agg(name || ' ' || state, ', ' ORDER BY name) FROM testdb_clones});
}

# The rows in a clone, as a session sees them.
sub rows_in
{
	my ($name) = @_;
	my $client = $node->session($name);
	my $rows = run($client, 'SELECT count(*) FROM t');
	$client->close;
	return $rows;
}

my @names = qw(mine_drop mine_drop_all mine_keep mine_other mine_reset mine_rewind);
for my $name (@names)
{
	run($admin, "SELECT testdb_clone('$template', '$name', label => '$name')");
	my $client = $node->session($name);
	run($client, 'INSERT INTO t SELECT generate_series(1, 10)');
	$client->close;
}
is(states(), join(', ', map { "$_ leased" } @names), 'before it: leased');

# All resets come to where there is no way back, somebody leaves a transaction in the template, and the server ends.
my @clients;
{
	my $position = -s $node->logfile;
	$node->use_point('restore-recorded wait');
	for my $name (@names)
	{
		my $client = $node->session('postgres');
		$client->send("SELECT testdb_reset('$name')");
		push @clients, $client;
	}
	ok( poll(
			sub {
				my $n = () = slurp_file($node->logfile, $position) =~ /debug point "restore-recorded" was reached/g;
				return $n == @names;
			}),
		'all resets have begun');
	my $client = $node->session($template);
	run($client, $_) for 'BEGIN', 'INSERT INTO t VALUES (2)', q{PREPARE TRANSACTION 'regress in the way'};
	$client->close;
	append_to_file($node->data_dir . '/point.conf', "testdb.debug_point = ''\n");
	$node->kill_server;
	$_->vanish for @clients, $admin;
}
$node->start_again;
$admin = $node->session('postgres');
is(states(), join(', ', map { "$_ interrupted" } @names), 'after the crash all are to be seen');
is( run($admin,
		q{SELECT string_agg(label, ' ' ORDER BY name) FROM testdb_clones WHERE template = 'regression_template'}),
	"@names",
	'with their labels and the template');

# Without the template there is no restoring them.
my $other = $node->session('postgres');
run($_, q{SET testdb.timeout = '700ms'}) for $admin, $other;
for my $case (
	[ 'testdb_rewind', q{SELECT testdb_rewind('mine_rewind')}, '57P03' ],
	[ 'testdb_keep', q{SELECT testdb_keep('mine_keep')}, '57P03' ],
	[ 'CREATE DATABASE, served,', 'CREATE DATABASE mine_copy TEMPLATE mine_keep', '57P03' ],
	[ 'ALTER DATABASE SET TABLESPACE', 'ALTER DATABASE mine_keep SET TABLESPACE pg_default', '57P03' ],
	[ 'CREATE DATABASE', 'CREATE DATABASE mine_copy TEMPLATE mine_keep', '57P03' ],
	[ 'testdb_reset', q{SELECT testdb_reset('mine_reset')}, '55006' ])
{
	my ($what, $statement, $sqlstate) = @$case;
	run($other, 'SET testdb.serve_create_database = ' . ($what =~ /served/ ? 'on' : 'off'));
	run($other, 'RESET testdb.timeout') if $what eq 'testdb_reset';
	ok(!$other->do($statement), "$what has to wait");
	is($other->sqlstate, $sqlstate, "$what says so") or diag $other->told;
}
run($_, 'RESET testdb.timeout') for $admin, $other;
is(run($admin, q{SELECT testdb_drop('mine_drop')}), 't', 'testdb_drop drops one at once');
ok(!oid_of($admin, 'mine_drop'), 'which has gone');
is(run($admin, q{SELECT testdb_drop_all(label => 'mine_drop_all')}), 1, 'so does testdb_drop_all');
ok(!oid_of($admin, 'mine_drop_all'), 'which has gone, too');
is( states(),
	'mine_keep interrupted, mine_other interrupted, mine_reset interrupted, mine_rewind interrupted',
	'the others are still to be restored');

# A drop that fails leaves it as it was.
{
	my $holder = $node->session('postgres', name => 'regress holder');
	run($holder, q{BEGIN; COMMENT ON DATABASE mine_reset IS 'held'});
	ok(!$admin->do(q{SELECT testdb_drop('mine_reset')}), 'a drop fails that somebody is in the way of');
	is($admin->sqlstate, '55P03', 'as it does of others') or diag $admin->told;
	run($holder, 'ROLLBACK');
	$holder->close;
	like(states(), qr/mine_reset interrupted/, 'and the clone waits as before');
}

# Who connects to one that has been renamed waits, too, once testdb has noticed.
run($admin, 'ALTER DATABASE mine_other RENAME TO mine_renamed');
my $child = in_child(
	sub {
		my $client;
		poll(sub { $client = $node->connect_to('mine_renamed'); return !$client->error }) or die 'nobody is let in';
		die 'another content' if $client->query('SELECT count(*) FROM t') != 1;
	});
ok(poll(sub { $node->pids_by_title(qr/mine_renamed .*(startup|authentication)/) }),
	'a connection to a renamed one waits');

# They wait, and get it when the template can be looked at.
my %waits = (
	mine_rewind => q{SELECT testdb_rewind('mine_rewind')},
	mine_keep => q{SELECT testdb_keep('mine_keep')});
my %waiting;
for my $name (sort keys %waits)
{
	$waiting{$name} = $node->session('postgres');
	$waiting{$name}->send($waits{$name});
}
ok(!$waiting{$_}->readable(0.2), "$waits{$_} waits") for sort keys %waits;
run($admin, q{SET testdb.template_timeout = '30s'});
{
	my $client = $node->session($template);
	run($client, q{ROLLBACK PREPARED 'regress in the way'});
	$client->close;
}
for my $name (sort keys %waits)
{
	$waiting{$name}->result;
	is($waiting{$name}->message, '', "$waits{$name} succeeds");
}
run($admin, q{SELECT testdb_reset('mine_reset')});
waitpid $child, 0;
is($?, 0, 'the one to the renamed gets in');
is(states(), 'mine_keep leased, mine_renamed leased, mine_reset leased, mine_rewind leased', 'all are restored');
is(rows_in($_), 1, "$_ has the template's content") for qw(mine_keep mine_renamed mine_reset mine_rewind);
is(run($admin, 'SELECT testdb_drop_all()'), 4, 'and they can be dropped');

# A rewind that fails after it has begun to restore the files, while the server runs and somebody is in the template: sessions wait
# at the gate, the one that called it as well. They can be terminated nevertheless, and the server can be stopped.
{
	run($admin, "SELECT testdb_clone('$template', 'mine_gate')");
	my ($caller, @waiting) = map { $node->session('mine_gate') } 1 .. 3;
	run($caller, 'CREATE EXTENSION testdb');
	run($_, 'SELECT count(*) FROM t') for @waiting;
	my $user = $node->session($template);
	my $position = -s $node->logfile;
	$node->use_point('rewind-recorded wait');
	$caller->send('CALL testdb_rewind()');
	ok(poll(sub { slurp_file($node->logfile, $position) =~ /debug point "rewind-recorded" was reached/ }),
		'a rewind has begun to restore');
	$_->send('SELECT count(*) FROM t') for @waiting;
	run($user, 'INSERT INTO t VALUES (2)');
	$node->use_point('rewind-files error');
	ok(poll(sub { states() =~ /mine_gate interrupted/ }), 'it fails, and the clone waits to be restored');

	for my $who ($caller, $waiting[0])
	{
		run($admin, 'SELECT pg_terminate_backend(' . $who->pid . ')');
		is($who->result->{error}{C}, '57P01', 'a session at its gate can be terminated') or diag $who->message;
	}
	$node->use_point('');
	ok($node->stop('fast', fail_ok => 1, timeout => 30), 'with one at the gate the server can be stopped');
	$node->stop('immediate');
	$node->start_again;
	$admin = $node->session('postgres');
	ok(poll(sub { states() eq 'mine_gate leased' }), 'then the clone is restored');
	is(rows_in('mine_gate'), 2, 'with the content that the template has now');
}

# A session that connects after the gate was closed has not been told of that. What it has prepared by the time at which new
# sessions are kept out is in the way.
{
	my $position = -s $node->logfile;
	my $rewinder = $node->session('postgres');
	run($rewinder, q{SET testdb.rewind_timeout = '1s'});
	$node->use_point('rewind-unprevented wait');
	$rewinder->send(q{SELECT testdb_rewind('mine_gate')});
	ok(poll(sub { slurp_file($node->logfile, $position) =~ /debug point "rewind-unprevented" was reached/ }),
		'nothing prevents a rewind so far');
	my $client = $node->session('mine_gate');
	run($client, $_) for 'BEGIN', 'INSERT INTO t VALUES (3)', q{PREPARE TRANSACTION 'regress just in time'};
	$node->use_point('');
	is($rewinder->result->{error}{C}, '55006', 'a transaction prepared now does');
	like($rewinder->error->{D} // '', qr/1 prepared transaction/, 'which the error says') or diag $rewinder->told;
	run($client, q{COMMIT PREPARED 'regress just in time'});
	is(run($client, 'SELECT count(*) FROM t'), 3, 'and its row is there');
	ok($rewinder->do(q{SELECT testdb_rewind('mine_gate')}), 'then it is rewound') or diag $rewinder->told;
	is(run($client, 'SELECT count(*) FROM t'), 2, 'to the content of the template');
}

$node->stop;
done_testing();
