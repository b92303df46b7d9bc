#include "runtime/kv/page_pool.h"

#include <gtest/gtest.h>

namespace duo {
namespace {

TEST(PagePool, PromisesOnlyWhatItHas) {
  PagePool pool(3);
  EXPECT_TRUE(pool.Reserve(2));
  EXPECT_FALSE(pool.Reserve(2));
  EXPECT_EQ(pool.available(), 1);
  EXPECT_EQ(pool.free(), 3);
  pool.Take();
  EXPECT_EQ(pool.available(), 1);  // it came out of the promise
  EXPECT_EQ(pool.free(), 2);
  pool.Unreserve(1);
  EXPECT_EQ(pool.available(), 2);
}

TEST(PagePool, ASharedPageIsFreeWhenTheLastOwnerDropsIt) {
  PagePool pool(1);
  ASSERT_TRUE(pool.Reserve(1));
  const int32_t id = pool.Take();
  pool.Share(id);
  EXPECT_FALSE(pool.Drop(id));
  EXPECT_EQ(pool.free(), 0);
  EXPECT_TRUE(pool.Drop(id));
  EXPECT_EQ(pool.free(), 1);
}

}  // namespace
}  // namespace duo
