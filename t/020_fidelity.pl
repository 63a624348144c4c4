
# A clone shows what its template shows: in its row in pg_database, column by column, in its settings and rights, in what
# its objects depend on, in every file.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use TestdbCluster;
use TestdbTest;

my $node = TestdbCluster->new_server(
	'main', q{
wal_level = minimal
max_wal_senders = 0
});
my $admin = $node->connect_to('postgres');

# The check is complete only if it asks for every column but those that must differ.
{
	my $all = $admin->query(
		q{
		SELECT count(*) FROM pg_attribute
		WHERE attrelid = 'pg_database'::regclass AND attnum > 0 AND NOT attisdropped});
	# oid, datname, datdba, datistemplate, datallowconn, and datacl, which is compared in its own way
	is(scalar row_columns($admin), $all - 6, 'all columns of pg_database are compared');
}

run($admin, "CREATE ROLE $_ LOGIN") for 'regress_first', 'regress_second', 'regress_third';
run($admin, 'GRANT CREATE ON TABLESPACE pg_default TO regress_first');
run($admin, 'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC');

# Templates of different kinds, each with what CREATE DATABASE would leave behind.
my $icu = $admin->query("SELECT count(*) FROM pg_collation WHERE collname ~ '-x-icu\$'");
my %templates = (
	regression_plain => '',
	regression_latin => "TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'",
	regression_limits => 'CONNECTION LIMIT 17');
$templates{regression_icu} =
  "TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'de-AT' LC_COLLATE 'C' LC_CTYPE 'C'"
  if $icu;

for my $template (sort keys %templates)
{
	run($admin, "CREATE DATABASE $template $templates{$template} IS_TEMPLATE true");
	run($admin, $_)
	  for "ALTER DATABASE $template SET work_mem = '5MB'",
	  "ALTER DATABASE $template SET search_path = 'a', 'b'",
	  "ALTER ROLE regress_first IN DATABASE $template SET work_mem = '6MB'",
	  "ALTER ROLE regress_second IN DATABASE $template SET statement_timeout = '7s'",
	  "GRANT CREATE ON DATABASE $template TO regress_first WITH GRANT OPTION",
	  "SET ROLE regress_first", "GRANT CREATE ON DATABASE $template TO regress_third", 'RESET ROLE',
	  "REVOKE CONNECT ON DATABASE $template FROM PUBLIC",
	  "GRANT CONNECT ON DATABASE $template TO regress_second",
	  "COMMENT ON DATABASE $template IS 'stays with the template'";
	my $client = $node->session($template);
	run($client, $_) for split /;;/, q{
		SET search_path = public;;
		CREATE TABLE plain AS SELECT i, repeat('x', i % 200) AS t FROM generate_series(1, 1000) i;;
		CREATE INDEX ON plain (t);;
		CREATE TABLE owned (i serial PRIMARY KEY);;
		ALTER TABLE owned OWNER TO regress_first;;
		GRANT SELECT ON plain TO regress_second;;
		CREATE UNLOGGED TABLE light AS SELECT i FROM generate_series(1, 100) i;;
		CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';;
		ALTER FUNCTION one() OWNER TO regress_third;;
		SELECT lo_from_bytea(99, repeat('z', 5000)::bytea);;
		ALTER LARGE OBJECT 99 OWNER TO regress_second;;
		CREATE PUBLICATION p FOR TABLE plain;;
		ALTER DEFAULT PRIVILEGES FOR ROLE regress_first GRANT SELECT ON TABLES TO regress_third;;
		CREATE POLICY p ON plain TO regress_second;;
		VACUUM (FREEZE, ANALYZE)};
	# Has values of its own in every column that can have one.
	is($client->query('SELECT count(*) FROM owned'), 0, "$template: made");
	$client->close;
}
run($admin, 'ALTER DATABASE regression_limits ALLOW_CONNECTIONS false');
run($admin, 'ALTER DATABASE regression_limits OWNER TO regress_second');

# Compares a clone, to which nobody has been connected, with its template, whose files are flushed.
sub compare
{
	my ($title, $template, $name, $owner) = @_;
	my $oid = oid_of($admin, $name);
	my $template_oid = oid_of($admin, $template);
	$node->is_same_database($admin, $oid, $template_oid, $title);
	ok($node->files_of($oid)->{'pg_internal.init'}, "$title: has a pg_internal.init");
	is($admin->query("SELECT datdba::regrole, datistemplate, datallowconn FROM pg_database WHERE oid = $oid"),
		"$owner|f|t", "$title: the columns that are its own");
	is(described($admin, $oid)->{pg_shdescription}, '', "$title: has no comment");
	is( $admin->query(
			"SELECT relation_size_of.n FROM (SELECT pg_database_size($oid) = pg_database_size($template_oid)) relation_size_of (n)"
		),
		't',
		"$title: has the same size");
	return;
}

my $me = getpwuid $<;
for my $template (sort keys %templates)
{
	my $allowed = $template ne 'regression_limits';
	my $template_dump = $allowed ? $node->dump_of($template) : undef;
	run($admin, 'CHECKPOINT');

	my $cold = $admin->query("SELECT testdb_clone('$template')");
	is($admin->query("SELECT method FROM testdb_templates WHERE name = '$template'"),
		'native', "$template: by the native method");
	compare("$template, new", $template, $cold, $me);
	my $named = $admin->query("SELECT testdb_clone('$template', 'regression_named')");
	compare("$template, new with a given name", $template, $named, $me);

	my $file = $node->data_dir . '/base/' . oid_of($admin, $cold);
	ok(-e "$file/PG_VERSION" && !-e "$file/testdb_unfinished", "$template: nothing of testdb in the directory");

	my $client = $node->session($cold);
	is($client->query('SELECT count(*) FROM public.plain'), 1000, "$template: can be read");
	is($client->query("SHOW work_mem"), '5MB', "$template: its settings apply");
	run($client, 'INSERT INTO public.plain SELECT generate_series(1, 3000)');
	run($client, 'VACUUM FULL pg_class');
	$client->close;
	is($node->dump_of($named), $template_dump, "$template: pg_dump says the same of a clone") if $allowed;

	my %oids = map { oid_of($admin, $_) => 1 } $cold, $named;
	run($admin, "SELECT testdb_drop('$_')") for $cold, $named;
	ok( poll(
			sub {
				$admin->query("SELECT spares >= 2 AND recycling = 0 FROM testdb_templates WHERE name = '$template'") eq
				  't';
			}),
		"$template: both are ready again");
	my $recycled = $admin->query("SELECT testdb_clone('$template')");
	ok($oids{ oid_of($admin, $recycled) }, "$template: one is recycled");
	compare("$template, recycled", $template, $recycled, $me);
	my $renamed = $admin->query("SELECT testdb_clone('$template', 'regression_renamed')");
	ok($oids{ oid_of($admin, $renamed) }, "$template: the other one too");
	compare("$template, recycled with a given name", $template, $renamed, $me);
	is($node->dump_of($recycled), $template_dump, "$template: pg_dump says the same of a recycled clone") if $allowed;
	run($admin, "SELECT testdb_drop('$_')") for $recycled, $renamed;
	run($admin, "CHECKPOINT");
}

# Another owner, one that the template's ACL names. It needs the right to call, and a template.
run($admin, 'GRANT EXECUTE ON FUNCTION testdb_clone, testdb_drop TO regress_first');
run($admin, 'ALTER ROLE regress_first CREATEDB');
my $other = $node->session('postgres', user => 'regress_first');
for my $title ('new', 'recycled')
{
	my $name = $other->query("SELECT testdb_clone('regression_plain')");
	ok($name, "another owner, $title") or diag $other->message;
	my $oid = oid_of($admin, $name);
	my $template_oid = oid_of($admin, 'regression_plain');
	is(differences($node->files_of($template_oid), $node->files_of($oid)), '', "another owner, $title: files");

	# What ALTER DATABASE OWNER makes of a row is the measure: do just that to a copy that core makes.
	run($admin, $_)
	  for 'CREATE DATABASE regression_measure',
	  'ALTER DATABASE regression_measure SET work_mem = \'1MB\'';
	run($admin, q{UPDATE pg_database SET datacl = (SELECT datacl FROM pg_database WHERE datname = 'regression_plain')
		WHERE datname = 'regression_measure'});
	run($admin, 'ALTER DATABASE regression_measure OWNER TO regress_first');
	is( $admin->query("SELECT datacl FROM pg_database WHERE oid = $oid"),
		$admin->query("SELECT datacl FROM pg_database WHERE datname = 'regression_measure'"),
		"another owner, $title: the ACL is what ALTER DATABASE OWNER makes of it");
	run($admin, 'DROP DATABASE regression_measure');

	my ($theirs, $mine) = (catalog_rows($admin, $template_oid), catalog_rows($admin, $oid));
	for my $rows ($theirs, $mine)
	{
		delete $rows->{$_} for 'pg_database.datacl', 'pg_shdepend of the database';
	}
	is(differences($theirs, $mine), '', "another owner, $title: catalogs");
	is( $admin->query(
			qq{
			SELECT string_agg(refobjid::regrole || ' ' || deptype::text, ', ' ORDER BY refobjid::regrole::text, deptype)
			FROM pg_shdepend WHERE dbid = 0 AND classid = 'pg_database'::regclass AND objid = $oid}),
		'regress_first o, regress_second a, regress_third a',
		"another owner, $title: what the database depends on");
	my $client = $node->session($name, user => 'regress_first');
	is($client->query('SHOW work_mem'), '6MB', "another owner, $title: the role's own setting applies");
	$client->close;
	run($other, "SELECT testdb_drop('$name')");
	poll(sub { $admin->query("SELECT recycling = 0 FROM testdb_templates WHERE name = 'regression_plain'") eq 't' });
	# A spare belongs to the one whose clone it was.
	my $others = $admin->query("SELECT testdb_clone('regression_plain')");
	is($admin->query("SELECT datdba::regrole FROM pg_database WHERE datname = '$others'"),
		$me, "another owner, $title: gets no other one's clones");
	run($admin, "SELECT testdb_drop('$others')");
}
$other->close;

# A clone works as a database of its own: what makes it differ from the template later reaches neither it nor others.
{
	my $name = $admin->query("SELECT testdb_clone('regression_plain')");
	my $neighbour = $admin->query("SELECT testdb_clone('regression_plain')");
	my $before = $node->files_of(oid_of($admin, 'regression_plain'));
	my $client = $node->session($name);
	run($client, $_)
	  for "INSERT INTO public.plain SELECT i, 'changed' FROM generate_series(1, 3000) i",
	  "SELECT nextval('public.owned_i_seq')",
	  'VACUUM FULL public.plain', 'VACUUM FULL pg_class', 'CHECKPOINT';
	is($node->session($neighbour)->query("SELECT count(*) FROM public.plain WHERE t = 'changed'"),
		0, 'a clone does not reach another one');
	is(differences($before, $node->files_of(oid_of($admin, 'regression_plain'))), '', 'nor its template');
	$client->close;
	run($admin, "SELECT testdb_drop('$_')") for $name, $neighbour;
}

# The check can fail.
{
	my $name = $admin->query("SELECT testdb_clone('regression_plain')");
	my $oid = oid_of($admin, $name);
	my $template_oid = oid_of($admin, 'regression_plain');
	# Renamed in 17.
	my ($locale) = grep { /^dat(icu)?locale$/ } row_columns($admin);
	for my $change (
		"ALTER DATABASE $name CONNECTION LIMIT 3",
		"ALTER DATABASE $name SET work_mem = '1MB'",
		"GRANT TEMPORARY ON DATABASE $name TO regress_third",
		"ALTER ROLE regress_third IN DATABASE $name SET work_mem = '1MB'",
		"UPDATE pg_database SET datcollversion = 'x' WHERE oid = $oid",
		"UPDATE pg_database SET datfrozenxid = '4' WHERE oid = $oid",
		"UPDATE pg_database SET $locale = 'x' WHERE oid = $oid")
	{
		my $before = catalog_rows($admin, $oid);
		run($admin, $change);
		isnt(differences($before, catalog_rows($admin, $oid)), '', "seen: $change");
	}
	my $file =
		$node->data_dir
	  . "/base/$oid/"
	  . $node->session($name)->query("SELECT relfilenode FROM pg_class WHERE relname = 'plain'");
	my $before = $node->files_of($oid);
	open my $out, '+<:raw', $file;
	seek $out, 100, 0;
	print $out 'X';
	close $out;
	isnt(differences($before, $node->files_of($oid)), '', 'a byte that differs in a file is seen');
	run($admin, "SELECT testdb_drop('$name')");
}

$node->stop;
done_testing();
