// The pages of src/ja are Japanese: browsers choose the shapes of characters by this.
if (location.pathname.includes("/ja/")) document.documentElement.lang = "ja";
