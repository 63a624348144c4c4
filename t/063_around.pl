
# What is around CREATE DATABASE does what it does without testdb, while it is served: pg_dumpall | psql, pg_restore --create,
# pg_upgrade, single-user mode, and scripts that are run on a new data directory, as the official image does.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Cwd qw(getcwd);
use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $settings = "testdb.serve_create_database = on\ntestdb.spares = 2";
my $node = TestdbCluster->new_server('around', $settings);
my $bin = $node->config_data('--bindir');
my $admin = $node->session('postgres');

# How many CREATE DATABASE were served, from whatever template.
sub served { return run($admin, 'SELECT coalesce(sum(served), 0) FROM testdb_templates') }

# Runs a program against a server, with a database's name only where it wants one; what it prints.
sub program
{
	my ($server, @command) = @_;
	my $name = shift @command;
	my ($out, $err) = run_command([ $name, '-h', $server->host, '-p', $server->port, @command ]);
	is($err, '', "$name: no complaints");
	return $out;
}

# Everything that is in a server, as text.
sub all_of
{
	my ($server) = @_;
	return program($server, 'pg_dumpall') =~ s/^\\(un)?restrict .*$//mgr;
}

# Statements from a file, by psql as scripts call it.
sub psql_file
{
	my ($server, $text, @options) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir . '/script.sql';
	open my $out, '>', $file or die $!;
	print $out $text;
	close $out;
	my ($said, $err) = run_command(
		[ 'psql', '-X', '-q', '-h', $server->host, '-p', $server->port, @options, '-d', 'postgres', '-f', $file ]);
	return $err;
}

my @names = qw(regression_app regression_app_test regression_plain);

# Databases of both kinds, with all that a dump says of one.
run($admin, $_)
  for 'CREATE ROLE regress_app LOGIN CREATEDB', 'CREATE ROLE regress_other',
  'CREATE DATABASE regression_app OWNER regress_app',
  q{ALTER DATABASE regression_app SET work_mem = '2MB'},
  q{ALTER ROLE regress_app IN DATABASE regression_app SET lock_timeout = '7s'},
  'GRANT CONNECT ON DATABASE regression_app TO regress_other',
  q{COMMENT ON DATABASE regression_app IS 'an application'},
  'ALTER DATABASE regression_app CONNECTION LIMIT 9';
{
	my $inside = $node->session('regression_app', user => 'regress_app');
	run($inside, $_)
	  for 'CREATE SCHEMA app', 'CREATE TABLE app.t (i int PRIMARY KEY, s text)', 'CREATE SEQUENCE app.s START 5',
	  q{INSERT INTO app.t SELECT i, nextval('app.s') FROM generate_series(1, 1000) i},
	  'CREATE VIEW app.v AS SELECT count(*) FROM app.t',
	  q{SELECT lo_from_bytea(0, 'a large object')};
	$inside->close;
}
run($admin, 'CREATE DATABASE regression_app_test TEMPLATE regression_app OWNER regress_app');
is(run($admin, q{SELECT scope FROM testdb_clones WHERE name = 'regression_app_test'}), 'database', 'one is served');
run($admin, 'SET testdb.serve_create_database = off');
run($admin, 'CREATE DATABASE regression_plain CONNECTION LIMIT 4');
run($admin, 'RESET testdb.serve_create_database');

# pg_dumpall, and what it wrote is run by psql, on the same server and on an empty one.
my $before = all_of($node);
like($before, qr/^CREATE DATABASE $_ /m, "$_ is in the dump") for @names;
{
	my $nserved = served();
	run($admin, "DROP DATABASE $_") for @names;
	my $err = psql_file($node, $before);
	is(join("\n", grep { !/ERROR:  role ".*" already exists/ } split /\n/, $err),
		'', 'pg_dumpall | psql: no errors but for roles');
	is(all_of($node), $before, 'pg_dumpall | psql: all is as before');
	cmp_ok(served(), '>', $nserved, 'pg_dumpall | psql: databases were served');

	my $other = TestdbCluster->new_server('empty', $settings);
	$err = psql_file($other, $before);
	is(join("\n", grep { !/ERROR:  (role ".*"|extension "testdb") already exists/ } split /\n/, $err),
		'', 'pg_dumpall | psql, on another server: no errors');
	is(all_of($other), $before, 'pg_dumpall | psql, on another server: all is there');
	$other->stop;
}

# pg_restore --create, of a database that is there still, too.
{
	my $file = PostgreSQL::Test::Utils::tempdir . '/dump';
	my $dump = $node->dump_of('regression_app');
	my $row =
	  q{SELECT datdba::regrole, datacl, datconnlimit, datistemplate, datallowconn, shobj_description(oid, 'pg_database'),
		(SELECT string_agg(setrole || setconfig::text, ' ' ORDER BY setrole) FROM pg_db_role_setting WHERE setdatabase = d.oid)
		FROM pg_database d WHERE datname = 'regression_app'};
	my $is = run($admin, $row);
	my $nserved = served();
	program($node, 'pg_dump', '-Fc', '-f', $file, 'regression_app');
	for my $options ([], ['--clean'], [ '--clean', '--if-exists' ])
	{
		run($admin, 'DROP DATABASE regression_app') unless @$options;
		program($node, 'pg_restore', '--create', @$options, '-d', 'postgres', $file);
		is($node->dump_of('regression_app'), $dump, "pg_restore --create @$options: its content");
		is(run($admin, $row), $is, "pg_restore --create @$options: its row");
	}
	cmp_ok(served(), '>=', $nserved + 3, 'pg_restore --create: served');
}

# Single-user mode: the statements are PostgreSQL's, and so are all databases.
sub single_user
{
	my (@statements) = @_;
	my ($out, $err) = ('', '');
	my $input = join '', map { "$_\n" } @statements;
	IPC::Run::run([ "$bin/postgres", '--single', '-F', '-D', $node->data_dir, 'postgres' ],
		'<', \$input, '>', \$out, '2>', \$err);
	my @errors = $err =~ /((?:ERROR|FATAL|PANIC|WARNING): .*)/g;
	return join "\n", @errors;
}
{
	run($admin, 'CREATE DATABASE regression_single TEMPLATE regression_app');
	run($admin, q{SELECT testdb_prewarm('regression_app', 2)});
	$admin->close;
	$node->stop;
	is( single_user(
			'CREATE DATABASE regression_new TEMPLATE regression_app',
			'DROP DATABASE regression_single',
			'CREATE DATABASE regression_app'),
		'ERROR:  database "regression_app" already exists',
		'single-user mode: the only error is the one there should be');
	$node->start;
	$admin = $node->session('postgres');
	is($node->session('regression_new')->query('SELECT * FROM app.v'), 1000, 'single-user mode: what it has made');
	is(run($admin, q{SELECT count(*) FROM testdb_clones WHERE name = 'regression_new'}),
		0, 'single-user mode: PostgreSQL made it');
	poll(
		sub {
			is_idle($admin)
			  && run($admin, q{SELECT count(*) FROM testdb_clones() WHERE oid NOT IN (SELECT oid FROM pg_database)}) ==
			  0;
		}) or die 'testdb still knows what has been dropped';
	is( run($admin,
			q{SELECT count(*) FROM pg_database WHERE datname LIKE 'regression_single%' OR datname LIKE 'regression\_app\__%' AND datname <> 'regression_app_test'}
		),
		0,
		'single-user mode: neither what was dropped nor a spare is left');
	is( join(' ', sort map { m{/(\d+)$} } glob($node->data_dir . '/base/*')),
		join(' ', sort map { $_->[0] } $admin->rows('SELECT oid FROM pg_database')),
		'single-user mode: directories');
	run($admin, 'DROP DATABASE regression_new');
}

# A new data directory, on which scripts are run at once, by a server that is stopped when they have ended: as the official
# image does it for /docker-entrypoint-initdb.d.
{
	my $image = TestdbCluster->new('image');
	$image->init;
	$image->append_conf('postgresql.conf', $settings);
	$image->start;
	my $script = q{
		CREATE DATABASE regression_first;
		\c regression_first
		CREATE TABLE t AS SELECT generate_series(1, 100) AS i;
		\c postgres
		CREATE DATABASE regression_second TEMPLATE regression_first;
		CREATE DATABASE regression_third TEMPLATE regression_second IS_TEMPLATE true;
		DROP DATABASE regression_second;
		CREATE DATABASE regression_second TEMPLATE regression_third;
	};
	is(psql_file($image, $script, '-v', 'ON_ERROR_STOP=1'), '', 'scripts of an image: no error');
	$image->stop('fast');
	$image->start;

	for my $name (qw(regression_first regression_second regression_third))
	{
		is($image->session($name)->query('SELECT count(*) FROM t'), 100, "scripts of an image: $name");
	}
	is( $image->safe_psql(
			'postgres',
			q{SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE datistemplate AND datname LIKE 'regression%'}
		),
		'regression_third',
		'scripts of an image: the template is one');
	$image->stop;
}

# pg_upgrade to a server of the same major, with testdb preloaded in both, as docs/install.md says.
{
	cmp_ok(run($admin, q{SELECT count(*) FROM testdb_clones}),
		'>', 0, 'pg_upgrade: there are databases that were served');
	run($admin, 'SELECT * FROM testdb_uninstall()');

	# pg_upgrade of 18 looks for libraries in PostgreSQL's own folder only, where this one may not be.
	my $hidden = $node->pg_version =~ /^18\b/ && !-e $node->config_data('--pkglibdir') . '/testdb.so';
	run($admin, 'DROP EXTENSION testdb') if $hidden;
	my $dump = all_of($node);
	$admin->close;
	$node->stop;
	my $new = TestdbCluster->new('upgraded');
	$new->init;
	$new->append_conf('postgresql.conf', $settings);
	my $from = getcwd;
	chdir PostgreSQL::Test::Utils::tempdir or die $!;
	my ($out, $err) = ('', '');
	my $done = IPC::Run::run(
		[
			"$bin/pg_upgrade", '-d', $node->data_dir, '-D', $new->data_dir, '-b', $bin, '-B',
			$bin, '-s', $node->host, '-p', $node->port, '-P', $new->port
		],
		'>',
		\$out,
		'2>',
		\$err);
	chdir $from;
	ok($done, 'pg_upgrade: done')
	  or diag "$out$err",
	  map { slurp_file($_) =~ /^(.*(?:error|ERROR|FATAL|could not).*)$/mg }
	  glob($new->data_dir . '/pg_upgrade_output.d/*/{log/*,*.txt}');
	die 'pg_upgrade has failed' unless $done;
	$new->start;
	is(all_of($new), $dump, 'pg_upgrade: all is there');
	$admin = $new->session('postgres');
	run($admin, 'CREATE EXTENSION testdb') if $hidden;
	my $nserved = served();
	ok($admin->do('CREATE DATABASE regression_again TEMPLATE regression_app'), 'pg_upgrade: and it goes on')
	  or diag $admin->told;
	is(served(), $nserved + 1, 'pg_upgrade: served again');
	is($new->session('regression_again')->query('SELECT * FROM app.v'), 1000, 'pg_upgrade: with its content');
	$admin->close;
	$new->stop;
}
done_testing();
