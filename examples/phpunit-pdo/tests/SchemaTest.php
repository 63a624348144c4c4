<?php

use PHPUnit\Framework\TestCase;

/** A database for each test. */
final class SchemaTest extends TestCase
{
    use FreshDatabase;

    public function testMayChange(): void
    {
        $this->db->exec('ALTER TABLE product ADD COLUMN weight integer NOT NULL DEFAULT 1');
        $this->assertSame(3, $this->db->query('SELECT sum(weight) FROM product')->fetchColumn());
    }

    public function testIsTheTemplates(): void
    {
        $this->assertFalse($this->db->query("SELECT 1 FROM pg_attribute WHERE attname = 'weight'")->fetchColumn());
    }

    public function testOtherSessionsSeeWhatWasCommitted(): void
    {
        // There is no transaction around the test.
        $other = new Shop(new TestDatabase($this->db->name));
        $other->placeOrder(2, [3 => 5]);
        $this->expectException(OutOfStock::class);
        (new Shop($this->db))->placeOrder(1, [3 => 1]);
    }
}
