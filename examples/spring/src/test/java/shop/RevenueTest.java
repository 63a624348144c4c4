package shop;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.math.BigDecimal;
import java.util.Map;
import org.junit.jupiter.api.RepeatedTest;
import org.junit.jupiter.api.extension.RegisterExtension;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.springframework.beans.factory.annotation.Autowired;
import org.springframework.boot.test.context.SpringBootTest;
import org.springframework.jdbc.core.simple.JdbcClient;

/** One database for this JVM, rewound before each test. */
@SpringBootTest
class RevenueTest {
    @RegisterExtension
    static SameDatabase database = new SameDatabase();

    @Autowired
    Shop shop;

    @Autowired
    JdbcClient db;

    @ParameterizedTest
    @CsvSource({"1, 30.00, 1", "1, 60.00, 2", "1, 90.00, 3", "2, 25.50, 1", "2, 51.00, 2", "2, 76.50, 3", "3, 12.00, 1", "3, 24.00, 2"})
    void isWhatWasPaid(long product, BigDecimal total, int amount) {
        assertEquals(BigDecimal.ZERO, shop.revenue());
        shop.pay(shop.placeOrder(1, Map.of(product, amount)));
        assertEquals(total, shop.revenue());
    }

    @RepeatedTest(2)
    void aTableMayGo() {
        db.sql("DROP TABLE shipment").update();
    }
}
