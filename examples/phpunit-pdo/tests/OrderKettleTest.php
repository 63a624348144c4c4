<?php

use PHPUnit\Framework\TestCase;

/** A database for each test. */
final class OrderKettleTest extends TestCase
{
    use FreshDatabase;

    /**
     * @testWith [1]
     *           [2]
     *           [3]
     *           [4]
     *           [5]
     */
    public function testTakesFromStock(int $amount): void
    {
        $shop = new Shop($this->db);
        // Number 1, each time: the sequences are the template's, too.
        $this->assertSame(1, $shop->placeOrder(1, [1 => $amount]));
        $this->assertSame(5 - $amount, $shop->inStock(1));
    }

    public function testTakesNothingIfSomethingIsMissing(): void
    {
        $shop = new Shop($this->db);
        try {
            $shop->placeOrder(1, [1 => 6]);
            $this->fail('There are no six of them.');
        } catch (OutOfStock $error) {
            $this->assertSame(5, $shop->inStock(1));
            $this->assertSame([], $shop->ordersOf(1));
        }
    }
}
