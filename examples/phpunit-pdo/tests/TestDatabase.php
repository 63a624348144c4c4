<?php

// Databases for the tests, by testdb. Copy this file, delete the trait that you don't use, and have PHPUnit's bootstrap read it.

// Where testdb is. What a test gets is another database on this server.
define('ADMIN_URL', getenv('ADMIN_URL') ?: 'postgresql://postgres:postgres@localhost:5435/postgres');

/** A connection to a database on that server, with its name. */
final class TestDatabase extends PDO
{
    public static string $template;
    private static ?PDO $admin = null;

    public function __construct(public readonly string $name)
    {
        $url = parse_url(ADMIN_URL);
        parent::__construct("pgsql:host={$url['host']};port={$url['port']};dbname=$name", $url['user'], $url['pass']);
    }

    /** Calls a function of testdb, on one connection that stays. Clones go with it: when this process ends, however it ends. */
    public static function call(string $function, string ...$values): array
    {
        $statement = (self::$admin ??= new self('postgres'))->prepare("SELECT * FROM testdb_$function");
        $statement->execute($values);
        return $statement->fetch(PDO::FETCH_NUM);
    }

    public static function clone(string $label): self
    {
        return new self(self::call("clone(?, scope => 'session', label => left(?, 100))", self::$template, $label)[0]);
    }
}

// The process that comes first makes the template, and the others wait here. After a change of a migration there is another one.
$schema = implode("\n", array_map('file_get_contents', glob('migrations/*.sql')));
[TestDatabase::$template, $build] = TestDatabase::call("template_begin('shop', md5(?))", $schema);
if ($build) {
    (new TestDatabase(TestDatabase::$template))->exec($schema);
    TestDatabase::call('template_finish(?)', TestDatabase::$template);
}

/** In a test case: $this->db is connected to a database of its own for each test. */
trait FreshDatabase
{
    protected TestDatabase $db;

    /** @before */
    public function cloneDatabase(): void
    {
        $this->db = TestDatabase::clone($this->toString());
    }

    /** @after */
    public function giveDatabaseBack(): void
    {
        // This ends the connections to it.
        TestDatabase::call($this->hasFailed() ? "keep(?, '2 days')" : 'drop(?)', $this->db->name);
        if ($this->hasFailed()) {
            echo preg_replace('~(.+):.+@(.+)/.*~', "\nKept for 2 days: psql \"$1@$2/{$this->db->name}\"\n", ADMIN_URL);
        }
    }
}

/** self::$db is connected to one for the class, which is what the template is again before each test; the connection stays. */
trait SameDatabase
{
    protected static ?TestDatabase $db = null;

    /** @before */
    public function rewindDatabase(): void
    {
        TestDatabase::call('rewind(?)', (self::$db ??= TestDatabase::clone(self::class))->name);
    }
}
