
# What testdb needs of a server: to be preloaded, free workers, a database for them, and not to be a standby. Where
# something is missing, the error names it. And what psql does not speak: the extended protocol, with pipelines.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

# Nothing of a dropped clone is kept, so that the server's state can be compared.
my $node = TestdbCluster->new_server(
	'main', q{
testdb.recycled = 0
testdb.spares = 0
max_logical_replication_workers = 0
},
	allows_streaming => 1);

# Runs a statement that must succeed, in a new session: the server is restarted all the time here.
sub ask
{
	my ($server, $sql, $db) = @_;
	my $client = $server->connect_to($db || 'postgres');
	my $result = run($client, $sql);
	$client->close;
	return $result;
}

ask($node, "CREATE DATABASE $_") for 'regression_template', 'regression_second';
ask($node, 'CREATE TABLE t AS SELECT 42 AS n', 'regression_template');
my $state = $node->server_state;

# In a pipeline several calls share a transaction.
my $script = q{
\startpipeline
SELECT testdb_clone('regression_template', concat('regression_pipe_', :client_id::int));
SELECT 1 / count(*) FROM pg_database WHERE datname = concat('regression_pipe_', :client_id::int);
SELECT testdb_drop(concat('regression_pipe_', :client_id::int));
SELECT testdb_drop(testdb_clone('regression_template'));
\endpipeline
SELECT testdb_clone('regression_template') AS clone \gset
SELECT testdb_drop(:clone);
};
for my $mode ('extended', 'prepared')
{
	$node->pgbench(
		"-n -M $mode -c 4 -j 2 -t 3",
		0, [ qr/actually processed: 12\/12/, qr/failed transactions: 0 / ],
		[qr/^$/],
		"$mode protocol, with pipelines",
		{ "001_pipeline_$mode" => $script });
}
$node->is_restored($state, 'pipelines leave nothing');

# Limits.
$node->set_conf('restart', 'testdb.max_clones' => 2, 'testdb.max_templates' => 1);
ask($node, q{SELECT testdb_clone('regression_template', 'regression_1')});
like(
	$node->error_of(q{SELECT testdb_clone('regression_second')}),
	qr/^53400: too many templates have clones\nAll 1 are in use\.\n.*"testdb\.max_templates"/,
	'testdb.max_templates');
ask($node, q{SELECT testdb_clone('regression_template', 'regression_2')});
like(
	$node->error_of(q{SELECT testdb_clone('regression_template')}),
	qr/^53400: too many databases created by testdb\n.*\b2\b.*\n.*"testdb\.max_clones"/,
	'testdb.max_clones');
is(ask($node, q{SELECT testdb_drop('regression_1'), testdb_drop('regression_2')}),
	't|t', 'clones are dropped at the limit');
is(ask($node, q{SELECT testdb_drop(testdb_clone('regression_second'))}),
	't', 'there is room again, for another template too');
$node->is_restored($state, 'calls that met a limit leave nothing');

# Another database for the workers: it is in use then, and postgres is not.
$node->set_conf('restart', 'testdb.database' => 'regression_second');
is( $node->error_of(q{SELECT testdb_clone('regression_second')}),
	'55006: cannot clone database "regression_second"
The testdb workers are connected to it.
Set "testdb.database" to another database and restart the server.',
	'the workers\' database as a template');
ask($node, 'CREATE DATABASE regression_caller');
ask($node, 'CREATE EXTENSION testdb', 'regression_caller');
is(ask($node, q{SELECT testdb_drop(testdb_clone('postgres', 'regression_1'))}, 'regression_caller'),
	't', 'postgres as a template');
ask($node, 'DROP DATABASE regression_caller');

# A clone as the workers' database.
ask($node, q{SELECT testdb_clone('regression_template', 'regression_1')});
$node->set_conf('restart', 'testdb.database' => 'regression_1');
is( $node->error_of(q{SELECT testdb_drop('regression_1')}),
	'55006: cannot drop database "regression_1"
The testdb workers are connected to it.
Set "testdb.database" to another database and restart the server.',
	'the workers\' database is not dropped');
$node->set_conf('restart', 'testdb.database' => 'postgres');
ask($node, q{SELECT testdb_drop('regression_1')});

# The workers' database does not exist, on one server; there is no room for a worker, on another. Each call waits a while
# for a worker to come, so they are made at the same time.
my $full = TestdbCluster->new_server('full', 'max_worker_processes = 0');
$node->set_conf('restart', 'testdb.database' => 'regression_missing');
my @refused = (
	[
		$node,
		qr/^53400: no testdb worker could be started\n.*"max_worker_processes".*"regression_missing"\.\n.*"testdb\.database"/,
		'testdb.database is missing'
	],
	[
		$full,
		qr/^53400: no testdb worker could be started\n.*the 0 background worker slots.*\n.*"max_worker_processes"/,
		'max_worker_processes is 0'
	]);
my @calls;
for my $case (@refused)
{
	my ($server, $pattern, $title) = @$case;
	for my $call (q{testdb_clone('template0')}, q{testdb_drop('postgres')})
	{
		my $client = $server->connect_to('postgres');
		$client->send("SELECT $call");
		push @calls, [ $client, $pattern, "$title: $call" ];
	}
}
for my $call (@calls)
{
	my ($client, $pattern, $title) = @$call;
	$client->result;
	like($client->told, $pattern, $title);
	$client->close;
}
$full->stop;

# No restart is needed when the database is there.
my $client = $node->connect_to('postgres');
$client->send(q{SELECT testdb_drop(testdb_clone('regression_template'))});
ask($node, 'CREATE DATABASE regression_missing');
is($client->result->{rows}[0][0], 't', 'testdb.database is made while a call waits');
$client->close;
$node->set_conf('restart', 'testdb.database' => 'postgres');
ask($node, 'DROP DATABASE regression_missing');

# Room for one worker of two.
$node->set_conf('restart', 'max_worker_processes' => 1);
is(ask($node, q{SELECT testdb_drop(testdb_clone('regression_template'))}), 't', 'one worker of two is enough');
is(scalar($node->worker_pids), 1, 'and there is only one');
$node->set_conf(
	'restart',
	'max_worker_processes' => 8,
	'testdb.max_clones' => 1000,
	'testdb.max_templates' => 64);
$node->is_restored($state, 'nothing is left of all that');

# A standby makes none. When it is promoted, it knows the clones that there were when its data was copied.
ask($node, "SELECT testdb_clone('regression_template', 'regression_$_')") for 1, 2;
$node->backup('backup');
ask($node, q{SELECT testdb_drop('regression_2')});
ask($node, q{SELECT testdb_clone('regression_template', 'regression_3')});
my $standby = TestdbCluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is( $standby->error_of(q{SELECT testdb_clone('regression_template')}),
	'25006: cannot execute testdb_clone() during recovery',
	'standby: clone');
is( $standby->error_of(q{SELECT testdb_drop('regression_1')}),
	'25006: cannot execute testdb_drop() during recovery',
	'standby: drop');
is(ask($standby, 'SELECT count(*) FROM testdb_clones'), 0, 'standby: the view is empty');
is(ask($standby, 'SELECT n FROM t', 'regression_3'), 42, 'standby: a clone can be read');
$standby->promote;
is(ask($standby, q{SELECT testdb_drop('regression_1')}), 't', 'promoted: a clone of before the backup');
like(
	$standby->error_of(q{SELECT testdb_drop('regression_3')}),
	qr/^42809: database "regression_3" was not created by testdb/,
	'promoted: a clone that it has no record of');
is(ask($standby, q{SELECT testdb_drop(testdb_clone('regression_template'))}), 't', 'promoted: a new clone');
unlike($standby->server_state, qr/regression_2|pg_testdb/, 'promoted: no record is left');
$standby->stop;

# Not preloaded. What was made before can be dropped when it is again.
$node->set_conf('restart', 'shared_preload_libraries' => '');
for my $call (
	q{testdb_clone('regression_template')}, q{testdb_drop('regression_1')},
	q{testdb_drop('regression_missing', true)}, 'count(*) FROM testdb_clones')
{
	is( $node->error_of("SELECT $call"),
		q{55000: testdb must be loaded via "shared_preload_libraries"
Add "testdb" to "shared_preload_libraries" and restart the server.},
		"not preloaded: $call");
}
$node->set_conf('restart', 'shared_preload_libraries' => 'testdb');
is(ask($node, q{SELECT testdb_drop('regression_1'), testdb_drop('regression_3')}),
	't|t', 'preloaded again: clones are dropped');
$node->is_restored($state, 'in the end there is what there was at first');

$node->stop;
done_testing();
