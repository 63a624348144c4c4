<?php

use PHPUnit\Framework\TestCase;

/** One database for this class, rewound before each test. */
final class RevenueTest extends TestCase
{
    use SameDatabase;

    public function orders(): iterable
    {
        foreach ([1 => 30, 2 => 25.5, 3 => 12] as $product => $price) {
            foreach (range(1, 5) as $amount) {
                yield "$amount of product $product" => [$product, $price, $amount];
            }
        }
    }

    /** @dataProvider orders */
    public function testRevenue(int $product, float $price, int $amount): void
    {
        $shop = new Shop(self::$db);
        $this->assertEquals(0, $shop->revenue());
        $shop->pay($shop->placeOrder(1, [$product => $amount]));
        $this->assertEquals($price * $amount, $shop->revenue());
    }

    public function testTableMayGo(): void
    {
        $this->assertSame(0, self::$db->exec('DROP TABLE shipment'));
    }

    public function testTableIsBack(): void
    {
        $this->assertSame(0, self::$db->query('SELECT count(*) FROM shipment')->fetchColumn());
    }
}
