package shop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.parallel.ExecutionMode.SAME_THREAD;

import java.math.BigDecimal;
import java.sql.Connection;
import java.util.Map;
import org.junit.jupiter.api.RepeatedTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.api.parallel.Execution;
import shop.TestDatabase.Rewound;

/** One database for this class, rewound before each test. */
@ExtendWith(TestDatabase.class)
@Execution(SAME_THREAD)
class RevenueTest {
    @RepeatedTest(10)
    void startsAtZero(@Rewound Connection db) throws Exception {
        Shop shop = new Shop(db);
        assertEquals(BigDecimal.ZERO, shop.revenue());
        shop.pay(shop.placeOrder(1, Map.of(1L, 2)));
        assertEquals(new BigDecimal("60.00"), shop.revenue());
    }

    @RepeatedTest(2)
    void aTableMayGo(@Rewound Connection db) throws Exception {
        db.createStatement().execute("DROP TABLE shipment");
    }

    @Test
    void stockIsFullAtFirst(@Rewound Connection db) throws Exception {
        assertEquals(5, new Shop(db).inStock(1));
    }
}
