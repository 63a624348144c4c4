<?php

/** Databases for the tests, by testdb. Copy this file, and delete the trait that you don't use. */
final class TestDatabase
{
    private static ?PDO $admin = null;
    private static ?string $template = null;

    public static function connect(string $name): PDO
    {
        // Where testdb is. What a test gets is another database on this server.
        $server = parse_url(getenv('ADMIN_URL') ?: 'postgresql://postgres:postgres@localhost:5435/postgres');
        return new PDO("pgsql:host={$server['host']};port={$server['port']};dbname=$name", $server['user'], $server['pass']);
    }

    /** Calls a function of testdb, on one connection that stays. Clones go with it: when this process ends, however it ends. */
    public static function call(string $function, string ...$values): array
    {
        self::$admin ??= self::connect('postgres');
        $statement = self::$admin->prepare("SELECT * FROM $function");
        $statement->execute($values);
        return $statement->fetch(PDO::FETCH_NUM);
    }

    /** The process that comes first makes it, and the others wait here. After a change of a migration there is another one. */
    private static function makeTemplate(): string
    {
        $schema = implode("\n", array_map('file_get_contents', glob('migrations/*.sql')));
        [$name, $build] = self::call("testdb_template_begin('shop', md5(?))", $schema);
        if ($build) {
            self::connect($name)->exec($schema);
            self::call('testdb_template_finish(?)', $name);
        }
        return $name;
    }

    public static function clone(string $label): string
    {
        $call = "testdb_clone(?, scope => 'session', label => left(?, 100))";
        return self::call($call, self::$template ??= self::makeTemplate(), $label)[0];
    }
}

/** In a test case: $this->db is connected to a database of its own for each test. */
trait FreshDatabase
{
    protected ?PDO $db;
    protected string $database;

    /** @before */
    public function cloneDatabase(): void
    {
        $this->db = TestDatabase::connect($this->database = TestDatabase::clone($this->toString()));
    }

    /** @after */
    public function giveDatabaseBack(): void
    {
        $this->db = null;
        TestDatabase::call($this->hasFailed() ? "testdb_keep(?, '2 days')" : 'testdb_drop(?)', $this->database);
        if ($this->hasFailed()) {
            fwrite(STDERR, preg_replace('~(.+):.+@(.+)/.*~', "\nKept for 2 days: psql \"$1@$2/{$this->database}\"\n", getenv('ADMIN_URL')));
        }
    }
}

/** $this->db is connected to one for the class, which is what the template is again before each test; the connection stays. */
trait SameDatabase
{
    protected PDO $db;
    private static array $same = [];

    /** @before */
    public function rewindDatabase(): void
    {
        self::$same = self::$same ?: [$name = TestDatabase::clone(self::class), TestDatabase::connect($name)];
        TestDatabase::call('testdb_rewind(?)', self::$same[0]);
        $this->db = self::$same[1];
    }
}
