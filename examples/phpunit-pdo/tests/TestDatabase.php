<?php

/**
 * Databases for the tests, by testdb. Copy this file, and delete the trait that you don't use. In a test case,
 *
 *   use FreshDatabase;  has $this->db connected to a database of its own for each test
 *   use SameDatabase;   to the one of this class, which is what the template is again; the connection stays open
 */
final class TestDatabase
{
    private static ?PDO $admin = null;
    private static ?string $template = null;

    /** Where testdb is. What a test gets is another database on this server. */
    public static function server(): array
    {
        return parse_url(getenv('ADMIN_URL') ?: 'postgresql://postgres:postgres@localhost:5435/postgres');
    }

    public static function connect(string $name): PDO
    {
        $server = self::server();
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
    private static function template(): string
    {
        if (self::$template === null) {
            $schema = implode("\n", array_map('file_get_contents', glob(__DIR__ . '/../migrations/*.sql')));
            [$name, $build] = self::call("testdb_template_begin('shop', ?)", hash('sha256', $schema));
            if ($build) {
                self::connect($name)->exec($schema);
                self::call('testdb_template_finish(?)', $name);
            }
            self::$template = $name;
        }
        return self::$template;
    }

    public static function clone(string $label): string
    {
        return self::call("testdb_clone(?, scope => 'session', label => left(?, 100))", self::template(), $label)[0];
    }
}

trait FreshDatabase
{
    protected ?PDO $db = null;
    protected string $database;

    /** @before */
    public function cloneDatabase(): void
    {
        $this->database = TestDatabase::clone($this->toString());
        $this->db = TestDatabase::connect($this->database);
    }

    /** @after */
    public function giveDatabaseBack(): void
    {
        if ($this->db === null) {
            return;
        }
        $this->db = null;
        if (!$this->hasFailed()) {
            TestDatabase::call('testdb_drop(?)', $this->database);
            return;
        }
        TestDatabase::call("testdb_keep(?, '2 days')", $this->database);
        ['host' => $host, 'port' => $port, 'user' => $user] = TestDatabase::server();
        fwrite(STDERR, "\nKept for 2 days: psql \"host=$host port=$port user=$user dbname={$this->database}\"\n");
    }
}

trait SameDatabase
{
    protected PDO $db;
    private static ?array $same = null;

    /** @before */
    public function rewindDatabase(): void
    {
        if (self::$same === null) {
            $name = TestDatabase::clone(self::class);
            self::$same = [$name, TestDatabase::connect($name)];
        }
        [$name, $this->db] = self::$same;
        TestDatabase::call('testdb_rewind(?)', $name);
    }
}
