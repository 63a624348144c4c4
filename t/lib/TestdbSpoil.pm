
# What a clone's owner or a superuser can do to it, its row, settings or content that could keep it from being dropped.

package TestdbSpoil;

use strict;
use warnings;

use Digest::MD5 'md5_hex';
use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

our @EXPORT = qw($template $node $admin @kept @streams @children set_up literal kinds_of call);

our $template = 'regression_template';
our $node;
our $admin;       # a session of the superuser in the database postgres
our @kept;        # sessions that stay in clones until the test ends
our @streams;     # processes that stream from slots
our @children;    # clones of clones, which are to be dropped at the end
my $version;      # the server's

# Starts the server, and makes the template.
sub set_up
{
	my $space = PostgreSQL::Test::Utils::tempdir;
	$node = TestdbCluster->new_server(
		'main', q{
wal_level = logical
max_prepared_transactions = 200
max_replication_slots = 60
max_wal_senders = 10
max_logical_replication_workers = 6
max_worker_processes = 16
max_connections = 300
wal_retrieve_retry_interval = 100ms
testdb.lock_timeout = 1s
});
	$version = int($node->pg_version =~ /^(\d+)/ ? $1 : 0);
	$admin = $node->session('postgres');
	run($admin, $_)
	  for "CREATE DATABASE $template IS_TEMPLATE true", 'CREATE ROLE regress_user LOGIN', 'CREATE ROLE regress_other',
	  'CREATE ROLE regress_super SUPERUSER', 'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop TO regress_user',
	  'CREATE PUBLICATION p', "CREATE TABLESPACE regress_space LOCATION '$space'";
	my $setup = $node->session($template);
	run($setup, 'CREATE TABLE t AS SELECT generate_series(1, 100) AS n');
	$setup->close;
	return;
}

# A text as a literal.
sub literal
{
	my ($text) = @_;
	return "'" . $text =~ s/'/''/gr . "'";
}

# The same in the administrator's session, with %s for the name.
sub outside
{
	my ($name, @statements) = @_;
	run($admin, s/%s/$name/gr) for @statements;
	return;
}

# Leaves a prepared transaction in a database, with statements that have %s for its name.
sub prepare
{
	my ($name, @statements) = @_;
	$node->in_database(
		$name, 'BEGIN',
		'CREATE TABLE prepared ()',
		(map { s/%s/$name/gr } @statements),
		"PREPARE TRANSACTION 'regress it''s $name'");
	return;
}

# Leaves a session there in an open transaction.
sub hold_open
{
	my ($name, @statements) = @_;
	push @kept, my $client = $node->session($name);
	run($client, s/%s/$name/gr) for 'BEGIN', @statements;
	return;
}

# Keeps a slot in use, by a process that streams from it.
sub stream
{
	my ($name) = @_;
	my $slot = 'slot_' . md5_hex($name);
	$node->in_database($name, "SELECT pg_create_logical_replication_slot('$slot', 'pgoutput')");
	my ($in, $out, $err) = ('', '', '');
	push @streams,
	  IPC::Run::start(
		[
			'pg_recvlogical', '-h', $node->host, '-p', $node->port, '-d', $name, '-S', $slot, '--start', '-n', '-f',
			'-', '-o', 'proto_version=1', '-o', 'publication_names=none'
		],
		\$in,
		\$out,
		\$err);
	poll(sub { run($admin, "SELECT active FROM pg_replication_slots WHERE slot_name = '$slot'") eq 't' })
	  or die "nobody streams from $slot: $err";
	return;
}

sub subscribe
{
	my ($name, $slot, @more) = @_;
	$node->in_database(
		$name,
		'SET log_min_messages = error',
		"CREATE SUBSCRIPTION regress_sub CONNECTION 'host=/nonexistent dbname=none' PUBLICATION p WITH (connect = false, slot_name = $slot)",
		@more);
	return;
}

# Gives a database a value of each setting that can be set there, far from the one it has; with a prepared transaction.
sub set_all
{
	my ($name, $bound) = @_;
	prepare($name);
	run($admin, qq{
		DO \$\$
		DECLARE
			s record;
			done int := 0;
		BEGIN
			-- But for one that servers with assertions have, which makes all of them a thousand times slower.
			FOR s IN SELECT * FROM pg_settings WHERE context IN ('user', 'superuser') AND name <> 'debug_discard_caches' ORDER BY name COLLATE "C"
			LOOP
				BEGIN
					EXECUTE format('ALTER DATABASE $name SET %I = %L', s.name, CASE s.vartype
						WHEN 'bool' THEN CASE s.setting WHEN 'on' THEN 'off' ELSE 'on' END
						WHEN 'enum' THEN s.enumvals[CASE '$bound' WHEN 'min_val' THEN 1 ELSE cardinality(s.enumvals) END]
						WHEN 'string' THEN 'nonexistent'
						ELSE CASE WHEN '$bound' = 'max_val' THEN s.max_val WHEN s.min_val::float8 <= 0 THEN '1' ELSE s.min_val END
						END);
					done := done + 1;
				EXCEPTION WHEN OTHERS THEN NULL;
				END;
			END LOOP;
			IF done < 100 THEN RAISE 'only % settings', done; END IF;
		END
		\$\$});
	return;
}

# A subscription whose worker streams changes from the database postgres, which keeps the slot.
sub follow
{
	my ($name) = @_;
	my $slot = 'follow_' . md5_hex($name);
	run($admin, "SELECT pg_create_logical_replication_slot('$slot', 'pgoutput')");
	$node->in_database($name,
			'CREATE SUBSCRIPTION regress_sub CONNECTION '
		  . literal('host=' . $node->host . ' port=' . $node->port . ' dbname=postgres')
		  . " PUBLICATION p WITH (create_slot = false, slot_name = $slot, copy_data = false)");
	poll(sub { run($admin, "SELECT active FROM pg_replication_slots WHERE slot_name = '$slot'") eq 't' })
	  or die "nobody streams from $slot";
	return;
}

# Makes a clone of a clone.
sub clone_of
{
	my ($name) = @_;
	push @children, run($admin, "SELECT testdb_clone('$name')");
	return;
}

# Calls a function of testdb for a clone, as an administrator.
sub call
{
	my ($function, $name) = @_;
	return $admin->query("SELECT $function(" . literal($name) . ')');
}

# Each kind: what is done to a clone of that name, and the first major that knows it. Those that stream have their turn by
# themselves: while WAL is sent somewhere, nothing is recycled. So have those that lock the clone, or change its row, from
# within: other statements would wait for them.
my @kinds = (
	[ 'nothing', sub { } ],
	# Before any transaction is prepared, whose end it would wait for.
	[
		'slot',
		sub {
			$node->in_database($_[0], "SELECT pg_create_logical_replication_slot('slot_' || md5('$_[0]'), 'pgoutput')");
		}
	],
	[ 'slot in use', \&stream, 'streams' ],
	[
		'temporary slot',
		sub {
			push @kept, my $c = $node->session($_[0]);
			run($c, "SELECT pg_create_logical_replication_slot('temporary_' || md5('$_[0]'), 'pgoutput', true)");
		}
	],
	[ 'subscription that runs', \&follow, 'streams' ],
	[ 'is_template', sub { outside($_[0], 'ALTER DATABASE %s IS_TEMPLATE true') } ],
	[ 'allow_connections', sub { outside($_[0], 'ALTER DATABASE %s ALLOW_CONNECTIONS false') } ],
	[ 'connection limit 0', sub { outside($_[0], 'ALTER DATABASE %s CONNECTION LIMIT 0') } ],
	[ 'marked as invalid', sub { outside($_[0], "UPDATE pg_database SET datconnlimit = -2 WHERE datname = '%s'") } ],
	[
		'all of these',
		sub {
			prepare($_[0]);
			outside(
				$_[0],
				'ALTER DATABASE %s ALLOW_CONNECTIONS false IS_TEMPLATE true',
				"UPDATE pg_database SET datconnlimit = -2 WHERE datname = '%s'");
		}
	],
	[ 'owner', sub { outside($_[0], 'ALTER DATABASE %s OWNER TO regress_other') } ],
	[ 'tablespace', sub { outside($_[0], 'ALTER DATABASE %s SET TABLESPACE regress_space') } ],
	[
		'files in a tablespace',
		sub { $node->in_database($_[0], 'CREATE TABLE away (i) TABLESPACE regress_space AS SELECT 1') }
	],
	[
		'tablespace of the row alone',
		sub {
			prepare($_[0]);
			outside($_[0],
				"UPDATE pg_database SET dattablespace = (SELECT oid FROM pg_tablespace WHERE spcname = 'regress_space') WHERE datname = '%s'"
			);
		}
	],
	[ 'another name', sub { outside($_[0], qq{ALTER DATABASE %s RENAME TO "it's ""%s"" \\; é"}) } ],
	[ 'a long name', sub { outside($_[0], 'ALTER DATABASE %s RENAME TO ' . substr("$_[0]_" . 'x' x 63, 0, 63)) } ],
	[
		'owner that is not there',
		sub { outside($_[0], "UPDATE pg_database SET datdba = 4000000000 WHERE datname = '%s'") }
	],
	[
		'locale that is not there',
		sub {
			prepare($_[0]);
			outside($_[0],
				"UPDATE pg_database SET datcollate = 'nonexistent', datctype = 'nonexistent' WHERE datname = '%s'");
		}
	],
	[
		'security label',
		sub {
			outside($_[0],
				"INSERT INTO pg_shseclabel SELECT oid, 'pg_database'::regclass, 'none', 'kept' FROM pg_database WHERE datname = '%s'"
			);
		}
	],
	[ 'comment', sub { outside($_[0], "COMMENT ON DATABASE %s IS 'kept'") } ],
	[ 'grant', sub { outside($_[0], 'GRANT CREATE ON DATABASE %s TO regress_other WITH GRANT OPTION') } ],
	[ 'no privileges', sub { outside($_[0], 'REVOKE ALL ON DATABASE %s FROM PUBLIC, CURRENT_USER') } ],
	[ 'publication', sub { $node->in_database($_[0], 'CREATE PUBLICATION p FOR ALL TABLES') } ],
	[
		'event triggers',
		sub {
			$node->in_database(
				$_[0],
				q{CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'refused'; END$$},
				'CREATE EVENT TRIGGER a ON sql_drop EXECUTE FUNCTION refuse()',
				'CREATE EVENT TRIGGER b ON ddl_command_start EXECUTE FUNCTION refuse()');
		}
	],
	[
		'login trigger',
		sub {
			$node->in_database(
				$_[0],
				'BEGIN',
				'CREATE TABLE prepared ()',
				"PREPARE TRANSACTION 'login $_[0]'",
				q{CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'refused'; END$$},
				'CREATE EVENT TRIGGER c ON login EXECUTE FUNCTION refuse()',
				'ALTER EVENT TRIGGER c ENABLE ALWAYS');
		},
		17
	],
	[ 'advisory lock', sub { push @kept, my $c = $node->session($_[0]); run($c, 'SELECT pg_advisory_lock(1)') } ],
	[ 'open transaction', sub { push @kept, my $c = $node->session($_[0]); run($c, 'BEGIN; LOCK TABLE pg_class, t') } ],
	[ 'prepared transaction', \&prepare ],
	[
		'prepared transaction, template',
		sub { prepare($_[0]); outside($_[0], 'ALTER DATABASE %s IS_TEMPLATE true') }
	],
	[
		'prepared transaction, closed',
		sub { prepare($_[0]); outside($_[0], 'ALTER DATABASE %s ALLOW_CONNECTIONS false CONNECTION LIMIT 0') }
	],
	[ 'subscription', sub { subscribe($_[0], 'NONE') } ],
	[
		'subscription with a slot, enabled',
		sub { subscribe($_[0], 'nowhere', 'ALTER SUBSCRIPTION regress_sub ENABLE') }
	],
	[
		'subscription of a template',
		sub { subscribe($_[0], 'NONE'); outside($_[0], 'ALTER DATABASE %s IS_TEMPLATE true') }
	],
	[
		'two subscriptions, one of another role',
		sub {
			subscribe(
				$_[0],
				'NONE',
				"CREATE SUBSCRIPTION regress_other_sub CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false, slot_name = NONE)",
				'ALTER SUBSCRIPTION regress_other_sub OWNER TO regress_super',
				'ALTER SUBSCRIPTION regress_sub DISABLE');
		}
	],
	[
		'prepared subscription',
		sub {
			$node->in_database(
				$_[0],
				'SET log_min_messages = error',
				'BEGIN',
				"CREATE SUBSCRIPTION regress_sub CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false, slot_name = NONE)",
				"PREPARE TRANSACTION 'subscription $_[0]'");
		}
	],
	[
		'system view dropped',
		sub {
			prepare($_[0]);
			$node->in_database(
				$_[0],
				'SET allow_system_table_mods = on',
				'DROP VIEW pg_prepared_xacts, pg_stat_activity CASCADE');
		}
	],
	[
		'catalogs emptied',
		sub {
			$node->in_database($_[0],
				'WITH a AS (DELETE FROM pg_attribute), p AS (DELETE FROM pg_proc) DELETE FROM pg_class');
		}
	],
	[
		'settings of a role in it',
		sub {
			prepare($_[0]);
			outside(
				$_[0],
				map { "ALTER ROLE CURRENT_USER IN DATABASE %s SET $_" } q{session_preload_libraries = 'nonexistent'},
				'role = regress_other',
				q{default_transaction_read_only = 'on'},
				q{exit_on_error = 'on'},
				q{statement_timeout = '1ms'},
				q{search_path = 'nonexistent'});
		}
	],
	[ 'each setting at its least', sub { set_all($_[0], 'min_val') } ],
	[ 'each setting at its greatest', sub { set_all($_[0], 'max_val') } ],
	[ 'ready clones of it', sub { run($admin, "SELECT testdb_prewarm('$_[0]', 2)") } ],
	[ 'template of another', sub { clone_of($_[0]) } ],
	(   map {
			my ($what, @statements) = @$_;
			(   [ "open transaction, $what", sub { hold_open($_[0], @statements) }, 'locks' ],
				[ "prepared transaction, $what", sub { prepare($_[0], @statements) }, 'locks' ])
		} ( [ 'comment', "COMMENT ON DATABASE %s IS 'never'" ],
			[ 'grant', 'GRANT CREATE ON DATABASE %s TO regress_other' ],
			[
				'settings',
				"ALTER DATABASE %s SET work_mem = '5MB'",
				'ALTER ROLE regress_other IN DATABASE %s SET jit = off'
			],
			[ 'row', 'ALTER DATABASE %s CONNECTION LIMIT 7' ],
			[ 'new owner', 'ALTER DATABASE %s OWNER TO regress_other' ])));

# What a worker's own session in it would get: it needs one to roll back a prepared transaction.
my %settings = (
	default_transaction_read_only => "'on'",
	default_transaction_deferrable => "'on'",
	default_transaction_isolation => "'serializable'",
	session_preload_libraries => "'nonexistent'",
	local_preload_libraries => "'nonexistent'",
	role => 'regress_other',
	statement_timeout => "'1ms'",
	lock_timeout => "'1ms'",
	idle_in_transaction_session_timeout => "'1ms'",
	search_path => "'nonexistent'",
	exit_on_error => "'on'",
	default_table_access_method => "'nonexistent'",
	transaction_timeout => "'1ms'");
for my $setting (sort keys %settings)
{
	push @kinds, [
		"setting $setting",
		sub {
			my ($name) = @_;
			prepare($name);
			my $done = $admin->do("ALTER DATABASE $name SET $setting = $settings{$setting}");
			diag("$setting: " . $admin->told) unless $done || $setting eq 'default_table_access_method';
		},
		$setting eq 'transaction_timeout' ? 17 : ()
	];
}

# What those of a kind have in common: streams, locks, or nothing.
sub group_of
{
	my ($kind) = @_;
	return ($kind->[2] // 0) =~ /^([a-z]+)$/ ? $1 : '';
}

# The kinds with that in common which this major knows.
sub kinds_of
{
	my ($group) = @_;
	return grep { group_of($_) eq $group && ($group ne '' || $version >= ($_->[2] // 0)) } @kinds;
}

1;
