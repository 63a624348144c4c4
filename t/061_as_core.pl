
# CREATE DATABASE and DROP DATABASE say and do what they do without testdb: each statement is run with
# testdb.serve_create_database off and on, and command tag, error, notices and what the shared catalogs say afterwards are
# compared.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $node = TestdbCluster->new_server('compared', "testdb.spares = 2");
my $admin = $node->session('postgres');
my @users = qw(postgres regress_creator regress_member regress_plain);
run($admin, $_)
  for 'ALTER ROLE postgres SUPERUSER', 'CREATE ROLE regress_owner', 'CREATE ROLE regress_creator LOGIN CREATEDB',
  'CREATE ROLE regress_member LOGIN CREATEDB IN ROLE regress_owner', 'CREATE ROLE regress_plain LOGIN',
  'CREATE DATABASE regression_template IS_TEMPLATE true', 'CREATE DATABASE regression_owned OWNER regress_owner',
  'CREATE DATABASE regression_foreign', 'CREATE DATABASE regression_invalid',
  'CREATE DATABASE "Regression ""Odd"" Name" IS_TEMPLATE true',
  q{ALTER DATABASE regression_template SET work_mem = '1MB'}, 'REVOKE ALL ON DATABASE regression_template FROM PUBLIC',
  'GRANT CONNECT ON DATABASE regression_template TO regress_plain',
  q{COMMENT ON DATABASE regression_template IS 'a template'},
  'ALTER DATABASE regression_template CONNECTION LIMIT 4',
  q{UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'regression_invalid'};
my %sessions =
  map { $_ => $_ eq 'postgres' ? $node->session('postgres') : $node->session('postgres', user => $_) } @users;

my $long = 'regression_' . 'x' x 52;
my $longer = $long . 'y';
my $odd = '"Regression ""Odd"" Name"';
my @new = (
	'regression_new', 'REGRESSION_NEW', '"Regression New"', $long,
	$longer, '""', 'regression_foreign', 'template1',
	'"regression;new"');
my $t = 'TEMPLATE regression_template';
my @options = (
	'',
	'WITH',
	'OWNER regress_creator',
	'OWNER regress_owner',
	'OWNER = regress_missing',
	'OWNER DEFAULT',
	'OWNER CURRENT_USER',
	q{ENCODING 'UTF8'},
	q{ENCODING 'utf8'},
	'ENCODING utf8',
	'ENCODING "utf8"',
	'ENCODING 6',
	'ENCODING = DEFAULT',
	q{ENCODING 'LATIN1'},
	q{ENCODING 'wrong'},
	'ENCODING 4711',
	q{ENCODING ''},
	q{LOCALE 'C.UTF-8'},
	q{LOCALE = 'C'},
	q{LOCALE 'no_such'},
	q{LC_COLLATE 'C.UTF-8'},
	q{LC_CTYPE 'C.UTF-8' LC_COLLATE 'C.UTF-8'},
	q{LC_COLLATE 'C'},
	q{LC_CTYPE 'POSIX'},
	q{LC_CTYPE ''},
	'LOCALE_PROVIDER libc',
	'LOCALE_PROVIDER LIBC',
	'LOCALE_PROVIDER icu',
	'LOCALE_PROVIDER wrong',
	q{ICU_LOCALE 'und'},
	q{ICU_RULES ''},
	q{BUILTIN_LOCALE 'C'},
	'CONNECTION LIMIT 5',
	'CONNECTION LIMIT = -1',
	'CONNECTION LIMIT 0',
	'CONNECTION LIMIT -2',
	'CONNECTION LIMIT -3',
	'CONNECTION LIMIT 1.5',
	'CONNECTION LIMIT DEFAULT',
	'IS_TEMPLATE true',
	'IS_TEMPLATE = false',
	'IS_TEMPLATE on',
	'IS_TEMPLATE OFF',
	'IS_TEMPLATE 1',
	'IS_TEMPLATE 2',
	q{IS_TEMPLATE 'maybe'},
	'IS_TEMPLATE DEFAULT',
	'ALLOW_CONNECTIONS false',
	'ALLOW_CONNECTIONS TRUE',
	'ALLOW_CONNECTIONS 0',
	'STRATEGY wal_log',
	'STRATEGY FILE_COPY',
	q{STRATEGY = "File_Copy"},
	'STRATEGY wrong',
	'STRATEGY DEFAULT',
	'TABLESPACE pg_default',
	'TABLESPACE = pg_global',
	'TABLESPACE missing',
	'TABLESPACE DEFAULT',
	q{COLLATION_VERSION '1'},
	'OID 4711',
	'OID 0',
	'OID DEFAULT',
	q{LOCATION '/nowhere'},
	'WRONG option',
	'OWNER regress_owner OWNER regress_owner',
	'IS_TEMPLATE true IS_TEMPLATE true',
	'TEMPLATE template1',
	'CONNECTION LIMIT 1 IS_TEMPLATE wrong',
	'OWNER regress_missing WRONG option',
	q{ENCODING 'wrong' OWNER regress_missing},
	q{OWNER regress_owner ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8' STRATEGY file_copy IS_TEMPLATE true CONNECTION LIMIT 3}
);
my @statements = (
	(map { "CREATE DATABASE $_ $t" } @new),
	(   map { "CREATE DATABASE regression_new TEMPLATE $_" } 'regression_owned',
		'regression_foreign', 'regression_missing', 'regression_invalid', 'template0', 'template1', 'DEFAULT', $odd,
		q{''}, q{'regression_template'}),
	'CREATE DATABASE regression_new',
	'CREATE DATABASE regression_new IS_TEMPLATE true',
	(map { "CREATE DATABASE regression_new $t $_" } @options),
	(   map { "CREATE DATABASE regression_new TEMPLATE template0 $_" } q{ENCODING 'LATIN1' LOCALE 'C'},
		q{LOCALE 'C'}, 'OWNER regress_owner'),
	"BEGIN; CREATE DATABASE regression_new $t",
	"SELECT 1; CREATE DATABASE regression_new $t",
	"CREATE DATABASE regression_new $t; SELECT 1",
	qq{DO \$\$BEGIN EXECUTE 'CREATE DATABASE regression_new $t'; END\$\$},
	"SET default_transaction_read_only = on; CREATE DATABASE regression_new $t",
	"BEGIN READ ONLY; CREATE DATABASE regression_new $t");

# What is made first, and then dropped in each of these ways.
my @made = (
	"$t",
	"$t OWNER regress_owner",
	"$t OWNER regress_creator",
	"$t IS_TEMPLATE true",
	"$t ALLOW_CONNECTIONS false",
	"$t CONNECTION LIMIT 0");
my @drops = (
	'DROP DATABASE regression_new',
	'DROP DATABASE IF EXISTS regression_new',
	'DROP DATABASE regression_new WITH (FORCE)',
	'DROP DATABASE regression_new (FORCE, FORCE)',
	'DROP DATABASE regression_new WITH (WRONG)',
	'BEGIN; DROP DATABASE regression_new',
	q{DO $$BEGIN EXECUTE 'DROP DATABASE regression_new'; END$$});
my @others = map { ("DROP DATABASE $_", "DROP DATABASE IF EXISTS $_ WITH (FORCE)") } 'regression_missing', $longer,
  'template0', 'postgres', 'regression_foreign_not', '""';

# The databases that are there at the beginning, which stay.
my %at_first = map { $_->[0] => 1 } $admin->rows('SELECT datname FROM pg_database');

sub made
{
	return grep { !$at_first{$_} }
	  map       { $_->[0] }
	  $admin->rows(
		'SELECT datname FROM pg_database WHERE oid NOT IN (SELECT oid FROM testdb_clones() WHERE state <> \'leased\') ORDER BY 1'
	  );
}

# What the catalogs say of the new databases: all but OIDs and horizons.
sub catalogs
{
	my $names = join ', ', map { my $name = $_; $name =~ s/'/''/g; "'$name'" } made() or return 'none';
	my @rows = $admin->rows(
		qq[
		SELECT to_jsonb(d) - 'oid' - 'datfrozenxid' - 'datminmxid' - 'datdba' - 'datlastsysoid', datdba::regrole,
			(SELECT string_agg(classid::regclass || ' ' || refobjid::regrole || ' ' || deptype::text, ', ' ORDER BY 1)
				FROM pg_shdepend WHERE dbid = 0 AND objid = d.oid),
			(SELECT count(*) FROM pg_shdepend WHERE dbid = d.oid),
			(SELECT count(*) FROM pg_db_role_setting WHERE setdatabase = d.oid), shobj_description(d.oid, 'pg_database')
		FROM pg_database d WHERE datname IN ($names) ORDER BY datname]);
	die 'nothing is seen: ' . $admin->message unless @rows;
	return join "\n", map {
		join '|',
		  map { $_ // '' }
		  @$_
	} @rows;
}

sub clean_up
{
	for my $name (made())
	{
		(my $quoted = $name) =~ s/"/""/g;
		run($admin, qq{ALTER DATABASE "$quoted" IS_TEMPLATE false});
		run($admin, qq{DROP DATABASE "$quoted"});
	}
	return;
}

# What a session is told.
sub answer
{
	my ($client, $sql) = @_;
	$client->send($sql);
	my $result = $client->result;
	my @told = map {
		my $m = $_;
		join ' / ', map { $_ // '' } @{$m}{qw(S C M D H P)}
	} @{ $result->{notices} }, $result->{error} ? $result->{error} : ();
	$client->do('ROLLBACK; RESET ALL');
	return join "\n", @{ $result->{tags} }, @told;
}

# Run statements in one mode; what is said and done.
sub outcome
{
	my ($mode, $user, $before, $sql) = @_;
	run($admin, "SET testdb.serve_create_database = $mode");
	run($admin, "ALTER ROLE $user SET testdb.serve_create_database = $mode");
	my $client = $node->session('postgres', user => $user);
	run($admin, "CREATE DATABASE regression_new $before") if defined $before;
	my $said = answer($client, $sql);
	my $state = catalogs();
	$client->close;
	clean_up();
	return "$said\n$state";
}

sub compare
{
	my ($user, $before, $sql) = @_;
	my $title = "$user: " . (defined $before ? "($before) " : '') . $sql;
	my $expected = outcome('off', $user, $before, $sql);
	is(outcome('on', $user, $before, $sql), $expected, $title);
	return;
}

my $served = q{SELECT coalesce(sum(served), 0) FROM testdb_templates};
compare('postgres', undef, $_)        for @statements;
compare('regress_creator', undef, $_) for @statements;
for my $user (qw(regress_member regress_plain))
{
	compare($user, undef, $_) for grep { !/ENCODING|LOCALE|LC_|STRATEGY|LIMIT|ALLOW/ } @statements;
}
cmp_ok(run($admin, $served), '>=', 60, 'and many were served');
for my $made (@made)
{
	compare('postgres', $made, $_) for @drops;
	compare($_, $made, 'DROP DATABASE regression_new') for @users[ 1 .. 3 ];
}
for my $user (@users)
{
	compare($user, undef, $_) for @others;
}

# Templates whose locale is of another provider, as far as this server has it.
my @providers = (
	[ 'icu', q{LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'} ],
	[ 'rules', q{LOCALE_PROVIDER icu ICU_LOCALE 'en' ICU_RULES '&a < g' LOCALE 'C.UTF-8'} ],
	[ 'builtin', q{LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'} ]);
my @locales = (
	'',
	'LOCALE_PROVIDER icu',
	'LOCALE_PROVIDER libc',
	'LOCALE_PROVIDER builtin',
	q{ICU_LOCALE 'en-US'},
	q{ICU_LOCALE 'en'},
	q{ICU_LOCALE 'en_US'},
	q{ICU_LOCALE 'EN-us'},
	q{ICU_LOCALE ''},
	q{LOCALE_PROVIDER icu ICU_LOCALE 'en-US'},
	q{LOCALE_PROVIDER libc LOCALE 'C.UTF-8'},
	q{LOCALE 'en-US'},
	q{LOCALE 'C.UTF-8'},
	q{LOCALE 'C'},
	q{ICU_RULES ''},
	q{ICU_RULES '&a < g'},
	q{BUILTIN_LOCALE 'C.UTF-8'},
	q{BUILTIN_LOCALE 'C'},
	q{BUILTIN_LOCALE 'C.UTF8'},
	q{LOCALE_PROVIDER builtin LOCALE 'C.UTF-8'},
	q{LC_COLLATE 'C.UTF-8'},
	q{LC_CTYPE 'C'},
	q{ENCODING 'UTF8'},
	q{ENCODING 'SQL_ASCII'});
for my $provider (@providers)
{
	my ($name, $options) = @$provider;
	my $template = "regression_$name";
	unless ($admin->do("CREATE DATABASE $template TEMPLATE template0 IS_TEMPLATE true $options"))
	{
		note "no template $name: " . $admin->message;
		next;
	}
	$at_first{$template} = 1;
	my $before = run($admin, $served);
	compare('postgres', undef, "CREATE DATABASE regression_new TEMPLATE $template $_") for @locales;
	cmp_ok(run($admin, $served), '>', $before, "$name: some were served");
}

# What pg_dump says of a database, with how it is made.
for my $options ($t, "$t OWNER regress_owner CONNECTION LIMIT 3", "$t IS_TEMPLATE true")
{
	my %dumps;
	for my $mode ('off', 'on')
	{
		run($admin, "SET testdb.serve_create_database = $mode");
		run($admin, "CREATE DATABASE regression_new $options");
		my ($out, $err) =
		  run_command([ 'pg_dump', '--create', '-h', $node->host, '-p', $node->port, 'regression_new' ]);
		is($err, '', "pg_dump of $options, $mode");
		$dumps{$mode} = $out =~ s/^\\(un)?restrict .*$//mgr;
		clean_up();
	}
	is($dumps{on}, $dumps{off}, "pg_dump of $options: the same");
}
$node->stop;
done_testing();
