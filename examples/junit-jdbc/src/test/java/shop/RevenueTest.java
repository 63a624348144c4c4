package shop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.parallel.ExecutionMode.SAME_THREAD;

import java.math.BigDecimal;
import java.util.Map;
import org.junit.jupiter.api.RepeatedTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.RegisterExtension;
import org.junit.jupiter.api.parallel.Execution;

/** One database for this class, rewound before each test. */
@Execution(SAME_THREAD)
class RevenueTest {
    @RegisterExtension
    static SameDatabase database = new SameDatabase();

    @RepeatedTest(10)
    void startsAtZero() throws Exception {
        Shop shop = new Shop(database.connection);
        assertEquals(BigDecimal.ZERO, shop.revenue());
        shop.pay(shop.placeOrder(1, Map.of(1L, 2)));
        assertEquals(new BigDecimal("60.00"), shop.revenue());
    }

    @RepeatedTest(2)
    void aTableMayGo() throws Exception {
        database.connection.createStatement().execute("DROP TABLE shipment");
    }

    @Test
    void stockIsFullAtFirst() throws Exception {
        assertEquals(5, new Shop(database.connection).inStock(1));
    }
}
