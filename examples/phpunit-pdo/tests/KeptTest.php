<?php

use PHPUnit\Framework\TestCase;

/** A test that fails, to see what is left of it. It needs to be asked for: SHOW_FAILURE=1 phpunit tests/KeptTest.php */
final class KeptTest extends TestCase
{
    use FreshDatabase;

    public function testFails(): void
    {
        if (getenv('SHOW_FAILURE') === false) {
            $this->markTestSkipped('fails on purpose');
        }
        $shop = new Shop($this->db);
        $shop->placeOrder(1, [1 => 1]);
        $this->assertSame([], $shop->ordersOf(1));
    }
}
