<?php

use PHPUnit\Framework\TestCase;

/** A database for each test. */
final class OrderRakeTest extends TestCase
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
        $this->assertSame(1, $shop->placeOrder(1, [3 => $amount]));
        $this->assertSame(5 - $amount, $shop->inStock(3));
    }

    public function testTakesNothingIfSomethingIsMissing(): void
    {
        $shop = new Shop($this->db);
        try {
            $shop->placeOrder(1, [3 => 6]);
            $this->fail('There are no six of them.');
        } catch (OutOfStock $error) {
            $this->assertSame(5, $shop->inStock(3));
            $this->assertSame([], $shop->ordersOf(1));
        }
    }
}
